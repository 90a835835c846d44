"""The Redis functions compared with a small model of them, and fleets whose workers die.

__main__        The command: walks until a number of operations has been compared
model           What the functions should do, in plain Python
random_walk     Random calls, each compared with the model; `python -m tests.property` walks further
worker_deaths   Program: a simulated fleet with messages that kill workers
"""
