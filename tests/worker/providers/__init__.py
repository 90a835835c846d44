"""One conformance suite over every dialect of upstreams, on real sockets.

__main__         Runs the suite and prints a table of the behaviours of each dialect
dialect_row      The form of a row, and the requests that every dialect must express
dialects         The list of all rows
openai           The row of chat completions
anthropic        The row of Anthropic's messages
gemini           The row of Gemini's generateContent
messages         Short forms of calls of tools, and of their results
calls            One call of an adapter, and its result
reports          What every dialect reports of the same answers: caches, finish reasons, words
upstream         A server of raw bytes: a script decides what each connection is sent, and when
memory_upstream  The same in memory, for tests that call thousands of times
exchanges        Refusals of vendors, and the failure that each becomes

A new adapter joins by one row in `dialects.DIALECTS`. `python -m tests.worker.providers` runs the
suite and prints its table.
"""
