"""How fast, how lean, how punctual: the figures that the README's promises rest on.

`python -m tests.bench` runs all and prints one table; `python -m tests.bench.<name>` runs one.

front           requests a second of one API process, beside a bare server's
trips           round trips to Redis, and bytes in it, of one generation
cancel          from a cancel to the end of the upstream's call
pickup          from POST to the upstream's first byte, beside stock arq's
wakeup          from the enqueue to the job's function, beside other queues' (`peers`)
engine          generations a second of one worker that has nothing else to do, beside the same
adapters        CPU of a streamed token in each provider's adapter, beside bare httpx
idle            what workers cost that have nothing to do
conversations   200 conversations at once: every answer in its place, once
polling         how late, and how often asking, a client is that obeys the hint
polling_scenes  the same where answers wait for others, or come from the local model
parked          what turns cost that wait for a key or for room, and how soon they go on
pages           what pages of long conversations cost everybody else
policy          the same question put to the poll policy alone, without sockets

Every bound that a figure is held to stands in `aims`, with its reason; where rounds disagree about
one, there are seven and the median judges (`figures.rounds`).

What is compared is measured in the same run, in turns. A figure without what it is compared with is
of that machine and that hour only.
"""
