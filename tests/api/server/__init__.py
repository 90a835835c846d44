"""The connection level of the API server against clients on real sockets, on both event loops.

clients                 Requests, an application, a server around it, clients on bare sockets
conftest                A server behind the protocol, on each event loop
test_connections        More connections than a process may have: which are served
test_fuzz               Randomly corrupted requests: none may break the server, hang it
test_refusals           What is refused, and how: each refusal is JSON, in order
test_request_smuggling  Request smuggling: where two readers could disagree about a request's end
test_timeouts           How long the server waits for clients: heads, next requests, rests of bodies
test_watchdog           The watchdog alone, on a fake clock
"""
