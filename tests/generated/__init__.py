"""Clients generated from the document that a front serves, and a conversation through each.

conversation    What every generated client asks, and what must come of it
programs        What users of these clients write: the same conversation in both languages
python          A client made by openapi-python-client, run by a test
typescript      Program: a client made by openapi-typescript; the gate runs it, with node and npm
"""
