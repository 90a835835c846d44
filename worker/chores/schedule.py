"""The chores as arq calls them: each runs once per time slot in the whole fleet.

Owns the times and slots; the worker that sets a slot's key first runs the chore. A chore that fails
is logged by arq and runs again in the next slot.
"""

import asyncio
from typing import Any, Final

from shared.redis import keys
from shared.telemetry import logs
from worker.chores import forget, recount, trim
from worker.run import Dependencies

TRIM_MINUTES: Final = 10
FORGET_SECONDS: Final = 30
RECOUNT_SECONDS: Final = 10
_HOUR_SECONDS: Final = 3_600


async def trim_libraries(ctx: dict[str, Any]) -> None:
    """Run the chore `trim`."""
    dependencies: Dependencies = ctx["dependencies"]
    if await _take_slot(dependencies, "trim", TRIM_MINUTES * 60):
        gone = await trim.trim(
            dependencies.redis, dependencies.settings.redis, dependencies.clock.now_ms()
        )
        logs.logger().info("trimmed function libraries", count=len(gone))


async def forget_media(ctx: dict[str, Any]) -> None:
    """Run the chore `forget`."""
    dependencies: Dependencies = ctx["dependencies"]
    if await _take_slot(dependencies, "forget", FORGET_SECONDS):
        seconds, _ = await dependencies.redis.call("TIME")
        files, now_ms = dependencies.media_store.files, int(seconds) * 1000
        count = await forget.forget(dependencies.redis, dependencies.settings.redis, files, now_ms)
        if count:
            logs.logger().info("forgot deleted sessions' files", sessions=count)


async def recount_stored(ctx: dict[str, Any]) -> None:
    """Run the chore `recount`."""
    dependencies: Dependencies = ctx["dependencies"]
    if await _take_slot(dependencies, "recount", RECOUNT_SECONDS):
        count = await recount.recount(dependencies.redis, dependencies.settings.redis)
        if count:
            logs.logger().info("counted what accounts store", accounts=count)


async def sweep_media(ctx: dict[str, Any]) -> None:
    """Delete media files past their retention, and partial files of dead writers."""
    dependencies: Dependencies = ctx["dependencies"]
    if await _take_slot(dependencies, "sweep", _HOUR_SECONDS):
        now_seconds = dependencies.clock.now_ms() / 1000
        sweep, seconds = (
            dependencies.media_store.files.sweep,
            dependencies.settings.media.files_seconds,
        )
        count = await asyncio.to_thread(sweep, now_seconds, seconds)
        logs.logger().info("swept media", files=count)


async def _take_slot(dependencies: Dependencies, name: str, seconds: int) -> bool:
    """Take the current slot of a chore, unless another worker has it."""
    slot = dependencies.clock.now_ms() // (seconds * 1000)
    key = keys.CHORE_SLOT(keys.system_root(dependencies.settings.redis), name, slot)
    return bool(await dependencies.redis.call("SET", key, 1, "NX", "PX", 2 * seconds * 1000))


# Names as in `chore_queue.CHORES`: the chore, and the minutes and seconds at which it is due.
CHORES: Final = (
    ("trim", trim_libraries, set(range(0, 60, TRIM_MINUTES)), {0}),
    ("forget", forget_media, None, set(range(0, 60, FORGET_SECONDS))),
    ("recount", recount_stored, None, set(range(0, 60, RECOUNT_SECONDS))),
    ("sweep", sweep_media, {7}, {0}),
)
