"""The Kombify AI API as published, and what the contract adds to it.

routes      the table of routes, and a handler for each that is not a chat
chat        a message, waited for or followed; companions, and who can answer
keys        the API keys of an account
lists       which part of a list is asked for
wire        requests and replies, field by field
translate   from a chat body to an intent, from a generation to an answer, from a session to an item
"""
