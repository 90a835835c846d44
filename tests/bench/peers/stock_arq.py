# /// script
# requires-python = ">=3.11"
# dependencies = ["arq ==0.28.0", "redis[hiredis] ==5.3.1"]
# [tool.uv]
# exclude-newer = "2026-11-20T00:00:00Z"
# ///
"""arq as it comes: its own worker with its defaults, on Python's own loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq.connections import RedisSettings, create_pool
from arq.worker import Worker, func

from tests.bench.peers import contract


async def work(url: str, begin: contract.Begin, **options: Any) -> None:  # noqa: ANN401  arq's own
    """Run arq's own worker."""

    async def noop(ctx: dict[str, Any], *numbers: int, **_: object) -> None:  # noqa: ARG001  its protocol
        begin(*numbers)

    functions = [func(noop, name="noop")]
    worker = Worker(functions, redis_settings=RedisSettings.from_dsn(url), **options)
    await worker.async_run()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[contract.Enqueue]:
    """Open arq's client."""
    pool = await create_pool(RedisSettings.from_dsn(url))

    async def enqueue(number: int) -> int:
        await pool.enqueue_job("noop", number)
        return number

    yield enqueue
    await pool.aclose()


if __name__ == "__main__":
    contract.main(work, connect)
