"""Workers and Redis that die at any moment, and the proof that nobody who waits notices.

evidence     what clients were promised, what the upstream was asked, what was seen meanwhile
ledger       holds Redis against the evidence, invariant by invariant; knows no workload
nursery      forks workers that are imported once; brood is its keeper in the test's process
scene        the parts that a run stands on: a server, an upstream, a front, a nursery
crowd        clients in several accounts that hold conversations, some of which they give up
survey       what is under way, looked at again and again: the worker, the attempt, the stage
storm        kills, stops and deploys at seeded times; `python -m tests.chaos --kills 1000 --seed 1`
shocks       Redis killed, hung or down meanwhile: `--crashes 200`, `--hangs 20`, `--outages 20`
torn         append-only files cut in the middle, and what a server has then
poison       messages that kill the worker which runs them, beside some that do not
boundaries   one scenario, killed before and after each of its store calls
day          one scenario without processes in which everything happens once
troubles/    what can befall Redis, and what a running system then makes of it, row by row
sinks        log sinks that fail: a pipe without a reader, one that is full, a full disk
ears         a worker's listener kept away while it runs long messages
upgrade      two checkouts on one Redis, there and back; fleet is its processes, callers its clients
planted      known faults, each of which the ledger must name

The ledger is kept apart from every workload, so that what makes mistakes does not also mark them.
"""
