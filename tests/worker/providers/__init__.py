"""One conformance suite over every dialect of upstreams, on real sockets.

dialects   a row for each adapter: how its upstream says the things that every upstream says
calls      one call and what came of it
memory     the same in memory, for what is tried thousands of times
upstream   an upstream of bare bytes: what it sends, when, and what becomes of its lines

A new adapter joins by one row of `dialects.DIALECTS`.
"""
