"""Other queues with empty jobs: what the engine is compared with.

One small file a peer, which runs in an environment of its own: its first lines name its packages,
and `tests.bench.contestants` has uv make that environment. All have one command line, `contract`;
so has our own engine (`tests.bench.noop_worker`). The project itself needs none of them.

bare           A loop around BLMOVE: as fast as a job can be woken up, and nothing else
contract       The command line of every peer
polled_arq     arq that polls every 10 ms
stock_arq      arq with its defaults
with_litellm   LiteLLM's proxy before an upstream, the peer of `streams`
with_saq       saq
with_streaq    streaq
with_taskiq    taskiq over Redis streams

DESIGN. A worker prints the time of the machine's monotonic clock, which all processes share, and
the reader knows when the job was sent. A worker ends with its standard input, so none outlives a
bench.
"""
