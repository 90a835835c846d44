"""What upstreams say, byte for byte, played through a whole system: front, Redis, worker, sockets.

exchange   one exchange: what is asked, the bytes that come back, the right outcome; byte builders
upstream   a socket that sends the bytes
play       the deployment, the callers, and what was seen
ends       answers that end by an error, a limit, a filter, or with nothing
odd        answers with odd details or in other wrappings; how tokens are counted
refusals   refusals, failures, and how long to wait
liveness   slow but alive, or silent
asked      shipped models, each asked in the words that it takes
recoveries an upstream that refuses for a while, then answers
kinds      all of them, by what is tried
files      exchanges in JSON files

`python -m tests.exchanges [FOLDER]` plays all of these, and the exchanges of a folder, and prints
one table of what was seen and whether it is right.
"""
