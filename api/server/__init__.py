"""HTTP/1.1 on one connection: uvicorn's protocol with bounds, timeouts and refusals in JSON.

protocol          uvicorn's HTTP protocol with bounds: reads, refuses, closes
request_head      Checks and measures the head of a request
response_writer   Writes the head, the body or chunks, and the end of one response
disconnect        Signals a waiting request that the client disconnected or the server shuts down
connections       Limits open connections, and closes those that are idle longest
transport         What uvicorn sees of the transport: `close` goes through the protocol
watchdog          One timer a connection: deadlines, and readers that are stuck
cors              Allowed origins and the CORS headers of a response
error_responses   Whole refusals where no route answers
"""
