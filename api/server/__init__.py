"""HTTP/1.1 on one connection: uvicorn's protocol with bounds, timeouts and refusals in JSON.

protocol         uvicorn's HTTP protocol with bounds: reads, refuses, closes
request_head     Checks and measures the head of a request
response_writer  Writes head, body or chunks, and end of one response
disconnect       Signals a waiting request that its client disconnected or the server shuts down
connections      Limits open connections; closes the one that has been idle longest
transport        uvicorn's view of the transport: `close` goes through the protocol
watchdog         One timer for each connection: deadlines, and clients that do not read
cors             Allowed origins, and the CORS headers of a response
responses        JSON values, event streams and chunked JSON, and how each is sent
error_responses  Complete refusals where no route answers
"""
