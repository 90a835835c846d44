"""Follows one generation: streams its events, or waits for its end.

Any number of clients may follow, in any process and through any dialect. A client that starts,
stops or disconnects changes nothing for the generation.

stream         One client's server-sent events, from any event on
ring           The last events of one generation, encoded once for all its followers
subscriber     The process' one pub/sub connection to Redis
wait           Long poll: returns a generation when it has ended or changed
stream_events  The events that the Redis stream does not store: accepted, snapshot, end
event_ids      `EPOCH-SEQ` and `GENERATION:EPOCH-SEQ`, read and written
resume         Which generation a POST with Last-Event-ID continues
"""
