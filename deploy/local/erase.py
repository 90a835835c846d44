"""Erase every key below the prefix of the settings, and arq's of its chores; nothing else.

A program of its own, `python -m deploy.local.erase [--library]`, run by the janitor when a demo
that borrowed somebody's Redis is over. Settings come from the environment, as for every process.
`--library` also deletes our function library: only for one who brought it; whoever else uses it
meanwhile loads it again.
"""

import asyncio
import contextlib
import os
import sys
from typing import Final

from shared.errors import PolluxError, StoreError
from shared.redis import library
from shared.redis.client import Redis
from shared.settings import Settings

_SCAN_COUNT: Final = 500


async def erase(settings: Settings, *, with_library: bool) -> None:
    """Remove the keys; raises UnavailableError when Redis is away."""
    redis = Redis(settings.redis)
    try:
        # What a process sent just before it was killed may arrive after the first look.
        while sum([await _erase_once(redis, each) for each in _patterns(settings.redis.prefix)]):
            pass
        if with_library:
            with contextlib.suppress(StoreError):
                await redis.call("FUNCTION", "DELETE", library.NAME)
    finally:
        await redis.close()


def _patterns(prefix: str) -> tuple[str, str]:
    """Return what to look for: our own keys, and what arq notes of our chores under their names."""
    return f"{prefix}:*", f"arq:*:{prefix}:*"


async def _erase_once(redis: Redis, pattern: str) -> int:
    """Go through all keys once and return how many were removed."""
    cursor: bytes | int = 0
    removed = 0
    while True:
        cursor, names = await redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        if names:
            removed += await redis.call("UNLINK", *names)
        if int(cursor) == 0:
            return removed


def main() -> int:
    """Erase as the environment says; return the process' exit code."""
    try:
        asyncio.run(erase(Settings.read(os.environ), with_library="--library" in sys.argv[1:]))
    except PolluxError as error:
        sys.stderr.write(f"pollux: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
