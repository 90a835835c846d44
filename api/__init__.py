"""The API server: a request becomes a submission, a generation becomes a response. Calls no model.

__main__             Starts uvicorn: one process, or several with `--workers`
app                  Mounts, routers, lifespan, and the middleware around every request
wiring               Connects to Redis and wires the parts of every room into State
state                What all requests of a process share, made once by the lifespan
errors               From an error code to status, headers and a body in the mount's own shape
refresh_ahead_cache  Values by name, reloaded in the background before they are too old
batch_tasks          Work for batches that a request begins and does not wait for
live_fleet           The live workers, and the models that callers may ask for
generation_ref       Where one generation is stored: partition root, account, id
server               HTTP/1.1 on one connection: bounds, timeouts and refusals in JSON
guards               What is checked before a handler runs: who, how often, how big
wire                 Fields and links that the replies of every dialect share
accept               A message becomes a queued generation, or a rejection that says when to retry
batches              A batch from its body to what is stored and runs
polling              When to poll next, and the end of what is overdue at a poll
follow               One generation's events, streamed to or awaited by any number of clients
endpoints            A dialect as an object, its rows, their way through the guards
resources            What callers do to their sessions, messages and API keys, in any dialect
openapi              The OpenAPI document, made from route tables and wire types
keyless              Routes that need no API key: health, readiness, documents, signed media files
dialects             The public APIs, one folder each: routes, wire, translate
admin                /admin/v1 on a port of its own: dead letters
"""
