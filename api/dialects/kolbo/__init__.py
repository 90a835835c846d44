"""The Kolbo chat API as published, and what contract 2 adds to it.

dialect    The dialect as one object
routes     The route table, and a handler for each row that is not about the account
account    Credits and usage of the account
links      The paths at which a generation is polled, cancelled and followed
wire       Requests and replies, field by field
translate  From a submit body to an Intent, from a generation to a status, rows of lists
"""
