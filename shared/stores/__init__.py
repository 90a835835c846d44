"""One file a family of keys: the reads, and the writes that need no more than their own key.

accounts      tenants and their API keys
ledger        what they were given, paid and used
receipts      what an Idempotency-Key stands for
generations   a generation as a caller may look at it
sessions      conversations and their messages
dead          what failed for no fault of its caller
fleet         live workers and what they serve
pace          how long answers take
mending       keys that something else has overwritten, and the lines made anew
pressure      how busy a partition is, and how full its server

What must be atomic is a function in `shared/redis`; the stores call it and type what it says. Every
store takes the account, so that ownership is part of each look-up.
"""
