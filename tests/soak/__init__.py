"""Half an hour of everything going wrong at once, and the proof that nothing grows meanwhile.

course    what stands, for how long, and what is asked when all is over
weather   the faults and their times: of workers, of Redis, of upstreams
tenants   clients that hold conversations, hear the ends in every way there is, and delete them
gauges    memory, descriptors, tasks, objects and keys, looked at every second or two
witness   what only a process itself knows, told by a thread inside it
picture   curves as an SVG

`python -m tests.soak --minutes 30` prints one table and draws one picture. What is kept for hours
in production is kept for half a minute here, so that what ends in time is seen to end.
"""
