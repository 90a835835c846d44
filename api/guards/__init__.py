"""What stands before a handler, in the order in which endpoint.py runs it: who, how often, how big.

identify   the key behind a request, and the account behind the key
revocations  what is open of a key that is revoked or expires: ended
limits     how often an account may read, cancel, and be refused
buckets    the arithmetic of that
places     how many streams and waits an account may have open
long_pages how many large pages may be under way at once
arriving   how many bytes of bodies may be arriving at once
body       the bytes of a request, bounded in size and time, and their decoding
faults     what is wrong with a body, in the words of JSON
"""
