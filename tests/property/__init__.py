"""The Redis functions against a small model of them, by random walks; and fleets whose workers die.

model    what the functions should do, said in plain Python
walk     random walks, each step compared with the model; `python -m tests.property` walks further
deaths   a simulated fleet with messages that kill workers; `python -m tests.property.worker_deaths`
"""
