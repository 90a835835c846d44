# /// script
# requires-python = ">=3.11"
# # It imports typing-extensions, which it does not ask for.
# dependencies = [
#   "saq[redis] ==0.26.4",
#   "redis[hiredis] ==7.4.1",
#   "typing-extensions >=4.12",
#   "uvloop ==0.23.0",
# ]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""saq, with 100 jobs at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio
import uvloop
from saq import Worker
from saq.queue.redis import RedisQueue

from tests.bench.peers import contract

_CONCURRENCY: Final = 100


def _queue(url: str) -> RedisQueue:
    return RedisQueue(redis.asyncio.Redis.from_url(url))


async def work(url: str, begin: contract.Begin) -> None:
    """Run saq's own worker."""

    async def noop(_ctx: dict[str, Any], *, number: int) -> None:
        begin(number)

    await Worker(_queue(url), [("noop", noop)], concurrency=_CONCURRENCY).start()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[contract.Enqueue]:
    """Open saq's client."""
    queue = _queue(url)
    await queue.connect()

    async def enqueue(number: int) -> int:
        await queue.enqueue("noop", number=number)
        return number

    yield enqueue
    await queue.disconnect()


if __name__ == "__main__":
    contract.main(work, connect, uvloop.new_event_loop)
