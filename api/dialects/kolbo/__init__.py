"""The Kolbo chat API as published, and what contract 2 adds to it.

routes     The route table, and a handler for each row that is not about the account
account    Credits and usage of the account
wire       Requests and replies, field by field
translate  From a submit body to an Intent, from a generation to a status, rows of lists
"""
