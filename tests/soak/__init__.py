"""Half an hour of faults of every kind, and the proof that nothing grows meanwhile.

__main__        The command: the run, its table and its picture
clients         Clients that hold conversations, follow each end in some published way, delete them
fault_schedule  The faults and their times: of workers, of Redis, of an upstream
gauges          Series of memory, descriptors, tasks, objects and keys, measured every two seconds
process_probe   A thread inside a process that counts its tasks and objects
soak_run        A run: what is started, how long it lasts, what is checked at the end
svg_chart       Curves as an SVG
upstream        The script of the two models, with faults now and then

`python -m tests.soak --minutes 30` prints one table and draws one picture. What production keeps
for hours is kept for half a minute here, so that its expiry is seen.
"""
