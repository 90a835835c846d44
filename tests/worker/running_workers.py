"""Runs whole workers in the test's own loop, with the keys and hooks that a test gives them.

Owns their start and end. A test changes settings on the system before.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from shared.clock import SystemClock
from tests.support import waiting
from tests.support.system import System
from worker.consumer.arq_worker import PolluxWorker

Hook = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def running_worker(
    system: System,
    environment: Mapping[str, str] | None = None,
    hooks: Mapping[str, Hook] | None = None,
) -> AsyncIterator[PolluxWorker]:
    """Run a worker and yield it once it may claim; leaving drains and closes it."""
    async with started(system, environment, hooks) as (worker, running):
        yield worker
        worker.begin_drain()
        await running


@asynccontextmanager
async def started(
    system: System,
    environment: Mapping[str, str] | None = None,
    hooks: Mapping[str, Hook] | None = None,
) -> AsyncIterator[tuple[PolluxWorker, "asyncio.Task[None]"]]:
    """Run a worker that the test itself ends; leaving closes it."""
    worker = PolluxWorker(system.settings, environment or {}, SystemClock())
    for name, hook in (hooks or {}).items():
        setattr(worker, name, hook)
    running = asyncio.create_task(worker.async_run())
    try:
        await waiting.until(lambda: "dependencies" in worker.ctx or running.done(), what="a worker")
        yield worker, running
    finally:
        worker.begin_drain()
        await asyncio.gather(running, return_exceptions=True)
        await worker.close()
