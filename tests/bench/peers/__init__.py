"""Other queues, each doing jobs of nothing: what the engine is measured beside.

One small file a peer, which runs in an environment of its own: its first lines name its packages,
and `tests.bench.contestants` has uv make that environment. All speak one tiny command line,
`contract`;
so does our own engine (`tests.bench.noop_worker`). The project itself needs none of them.

bare       a loop around BLMOVE: as fast as a job can be woken up for, and nothing else
stock_arq  arq, as it comes or polling every 10 ms
with_saq, with_streaq, with_taskiq

DESIGN. What a worker prints is the machine's monotonic clock, which all processes share; who reads
it knows when the job was sent. A worker ends with its standard input, so none outlives a bench.
"""
