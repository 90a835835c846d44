"""What upstreams say, byte for byte, played through a whole system: front, Redis, worker, sockets.

exchange   one exchange: what is asked, the bytes that come back, the right outcome; byte builders
upstream   a socket that sends the bytes
play       the deployment, the callers, and what was seen
ends       answers that end by an error, a limit, a filter, or with nothing
odd        answers with odd details or in other wrappings; how tokens are counted
refusals   refusals, failures, and how long to wait
liveness   slow but alive, or silent

`python -m tests.exchanges FOLDER` plays exchanges from JSON files: `dialect`, `request` (fields of
a submission), `upstream_reply_latin1` (pieces of a reply, `{"pause_seconds": N}` between them).
"""
