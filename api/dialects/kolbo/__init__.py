"""The Kolbo chat API as published, and what contract 2 adds to it.

routes      the table of routes, and a handler for each
wire        requests and replies, field by field
account     what an account has and has used
translate   from a submit body to an intent, from a generation to a status
"""
