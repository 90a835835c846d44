# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "taskiq ==0.13.0",
#   "taskiq-redis ==1.2.4",
#   "redis[hiredis] ==8.1.0",
#   "uvloop ==0.23.0",
# ]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""taskiq over Redis streams, with 100 jobs at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvloop
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from tests.bench.peers import contract

_CONCURRENCY: Final = 100


def _broker(url: str, begin: contract.Begin) -> tuple[Any, Any]:
    broker: Any = RedisStreamBroker(url)

    async def noop(number: int) -> None:
        begin(number)

    return broker, broker.register_task(noop, task_name="noop")


async def work(url: str, begin: contract.Begin) -> None:
    """Run taskiq's own receiver."""
    broker, _ = _broker(url, begin)
    broker.is_worker_process = True
    await run_receiver_task(broker, max_async_tasks=_CONCURRENCY, run_startup=True)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[contract.Enqueue]:
    """Open taskiq's client."""
    broker, noop = _broker(url, contract.print_begun)
    await broker.startup()

    async def enqueue(number: int) -> int:
        await noop.kiq(number)
        return number

    yield enqueue
    await broker.shutdown()


if __name__ == "__main__":
    contract.main(work, connect, uvloop.new_event_loop)
