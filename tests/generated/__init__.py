"""Clients generated from the document that a front serves, and a conversation through each.

python      a client made by openapi-python-client, in the tests
typescript  one made by openapi-typescript, by a command that the gate runs: it needs node and npm
programs/   what their users write: the same conversation in both languages
"""
