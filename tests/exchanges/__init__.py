"""Responses of upstreams, byte for byte, run through a whole system: front, Redis, worker, sockets.

__main__        The command: runs all exchanges and prints the table
all_exchanges   All exchanges, by what is tried
byte_upstream   A socket that sends the bytes
endings         Answers that end by an error, a limit, a filter, or with nothing
exchange        One exchange: what is asked, the bytes that come back, the expected outcome
files           Exchanges in JSON files
liveness        Upstreams that are slow but alive, or silent
odd_answers     Answers with odd details or in other wrappings; how tokens are counted
recoveries      Upstreams that refuse for a while, then answer
refusals        Refusals, failures, and how long to wait
runner          The deployment, the clients, and the outcome of each exchange
shipped_models  Shipped models, each with the request parameters that it takes

`python -m tests.exchanges [FOLDER]` runs all of these, and the exchanges of a folder, and prints
one table of the outcomes and whether they are right.
"""
