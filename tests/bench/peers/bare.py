# /// script
# requires-python = ">=3.11"
# dependencies = ["redis[hiredis] ==5.3.1", "uvloop ==0.23.0"]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""The floor of a wake-up: BLMOVE from one list to another, the job, LREM."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import redis.asyncio
import uvloop

from tests.bench.peers import contract

_WAITING: Final = "bare:waiting"
_TAKEN: Final = "bare:taken"


async def work(url: str, begin: contract.Begin) -> None:
    """Take one job after the other."""
    client = redis.asyncio.Redis.from_url(url)
    while True:
        job = await client.blmove(_WAITING, _TAKEN, 0, "RIGHT", "LEFT")
        begin(int(job))
        await client.lrem(_TAKEN, 1, job)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[contract.Enqueue]:
    """Open a client."""
    client = redis.asyncio.Redis.from_url(url)

    async def enqueue(number: int) -> int:
        await client.lpush(_WAITING, str(number))
        return number

    yield enqueue
    await client.aclose()


if __name__ == "__main__":
    contract.main(work, connect, uvloop.new_event_loop)
