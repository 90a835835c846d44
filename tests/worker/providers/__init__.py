"""One conformance suite over every dialect of upstreams, on real sockets.

row        the form of a row, and the requests that every dialect puts into its own words
dialects   all rows; `openai`, `anthropic` and `gemini` each hold one
calls      one call and what came of it
memory     the same in memory, for what is tried thousands of times
upstream   an upstream of bare bytes: what it sends, when, and what becomes of its lines

A new adapter joins by one row of `dialects.DIALECTS`. `python -m tests.worker.providers` runs the
suite and prints what was tried with each.
"""
