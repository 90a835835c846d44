"""Clients generated from the document that a front serves, and a conversation through each.

python      a client made by openapi-python-client, in the tests
typescript  one made by openapi-typescript, by a command: it needs node, npm and a registry
programs/   what their users write: the same conversation in both languages
"""
