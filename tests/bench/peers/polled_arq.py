# /// script
# requires-python = ">=3.11"
# dependencies = ["arq ==0.28.0", "redis[hiredis] ==5.3.1", "uvloop ==0.23.0"]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""arq driven hard: it polls every 10 ms, on uvloop, 100 jobs at once."""

from functools import partial

import uvloop

from tests.bench.peers import contract, stock_arq

if __name__ == "__main__":
    work = partial(stock_arq.work, poll_delay=0.01, max_jobs=100)
    contract.main(work, stock_arq.connect, uvloop.new_event_loop)
