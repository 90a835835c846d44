"""Follows one generation: streams its events, or waits for its end.

Any number of clients may follow, in any process and through any dialect. A client that starts,
stops or disconnects changes nothing for the generation.

stream              One client's stream of events, from any event on
cursors             Where one follower is, and what it gets next
ring                The last events of one generation, kept once for all its followers
frames              What one encoder wrote of a ring's events, for all of its followers
encoders            How a dialect writes events: one frame for each, or folded
server_sent_events  The encoder of server-sent events
stored_events       Pages of the Redis stream, and the end from the record
subscriber          The process' one pub/sub connection to Redis
wait                Long poll: returns a generation when it has ended or changed
stream_events       The events that the Redis stream does not store: accepted, snapshot, end
event_ids           Numbers of events, and the ids by which callers name them
resume              Which generation a POST with Last-Event-ID continues
"""
