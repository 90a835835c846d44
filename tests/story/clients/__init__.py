"""Programs of customers, each a process of its own: two languages, the same calls.

chat.py    Python, with requests
chat.mjs   JavaScript, with fetch

Called as `chat BASE KEY MESSAGE...`; the base ends in /api, as the published samples have it, and
links are appended to it as they come. Prints one line of JSON for each turn: what was answered, in
which session, and which URL was polled.
"""
