"""Programs of customers, each a process of its own: two languages, the same calls.

chat       Python, with requests
chat.mjs   JavaScript, with fetch

They are called as `chat BASE KEY MESSAGE...`; the base ends in /api, as the published samples have
it, and links are appended to it as they come. Each prints one line of JSON for each turn: the
answer, its session, and the URL that was polled.
"""
