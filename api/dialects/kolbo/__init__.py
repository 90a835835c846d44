"""The Kolbo chat API as published, and what contract 2 adds to it.

dialect          The dialect as one object
routes           The route table, and a handler for each row of generations and sessions
account          Credits and usage of the account
batches          Batches: list, show, results
batch_upload     A batch that is made: its options, and the receipt
batch_lines      A line of a batch: from its bytes to an Intent, or to what is wrong
links            The paths of a generation and of a batch
wire             Requests and replies, field by field
upload_wire      What a batch is made of: options and items; the receipt
batch_wire       Replies about batches, and a line of their results
translate        From a submit body to an Intent, from a generation to a status, rows of lists
batch_translate  From a batch to a reply, from an item that has ended to a line
"""
