"""What is checked before a handler runs, in this order: who, how often, how big.

identify           From the key in the headers to the account
revocations        Ends the open streams and waits of a key that is revoked or expires
rate_limits        Requests a minute by account: reads, polls, cancels, submissions
token_buckets      The arithmetic of those limits
open_waits         How many streams and waits an account may have open
large_pages        How many pages may be sent in pieces at once
inflight_bodies    How many bytes of request bodies may be arriving at once
body               Reads a body within its bounds
body_kinds         JSON, lines of JSON, text: how each is decoded and refused
body_types         The type of a body as a tree: its fields, and what it does not know
validation_errors  The sentence for a body that does not fit its type
"""
