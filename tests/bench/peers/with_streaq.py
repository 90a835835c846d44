# /// script
# requires-python = ">=3.11"
# dependencies = ["streaq ==7.2.0", "uvloop ==0.23.0"]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""streaq, with 250 jobs at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvloop
from streaq import Worker

from tests.bench.peers import contract

_CONCURRENCY: Final = 250


def _worker(url: str, begin: contract.Begin) -> tuple[Any, Any]:
    worker: Any = Worker(redis_url=url, concurrency=_CONCURRENCY)

    async def noop(number: int) -> None:
        begin(number)

    return worker, worker.task(noop)


async def work(url: str, begin: contract.Begin) -> None:
    """Run streaq's own worker."""
    worker, _ = _worker(url, begin)
    await worker.run_async()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[contract.Enqueue]:
    """Open streaq's client, which is a worker that does not run."""
    worker, noop = _worker(url, contract.print_begun)
    async with worker:

        async def enqueue(number: int) -> int:
            await noop.enqueue(number)
            return number

        yield enqueue


if __name__ == "__main__":
    contract.main(work, connect, uvloop.new_event_loop)
