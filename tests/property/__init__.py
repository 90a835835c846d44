"""The Redis functions compared with a small model of them, and fleets in simulated time.

__main__             The command: walks until a number of operations has been compared
batch_walk           Random calls of the functions of batches, and what holds after each
model                What the functions should do, in plain Python
random_walk          Random calls, each compared with the model; `python -m tests.property`
simulated_upstreams  Upstreams that limit calls, or refuse them by chance
throttled_fleet      Program: a simulated fleet that calls an upstream which refuses calls
worker_deaths        Program: a simulated fleet with messages that kill workers
"""
