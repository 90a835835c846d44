"""Program that deletes every key below the configured prefix, and arq's keys of our chores.

`python -m deploy.local.erase [--library]`. The janitor runs it after a demo on the operator's own
Redis. The settings come from the environment, as for every process. `--library` also deletes the
function library: the demo passes it only if the library was not there before. Another Pollux that
uses the library at that moment loads it again.
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
    """Delete the keys. Raises UnavailableError if Redis cannot be reached."""
    redis = Redis(settings.redis)
    try:
        # A write that a process sent just before it was killed may arrive after the first scan.
        while sum([await _erase_once(redis, each) for each in _patterns(settings.redis.prefix)]):
            pass
        if with_library:
            with contextlib.suppress(StoreError):
                await redis.call("FUNCTION", "DELETE", library.NAME)
    finally:
        await redis.close()


def _patterns(prefix: str) -> tuple[str, str]:
    """Return the patterns of our own keys, and of the keys in which arq records our chores."""
    return f"{prefix}:*", f"arq:*:{prefix}:*"


async def _erase_once(redis: Redis, pattern: str) -> int:
    """Scan all keys once; return how many were deleted."""
    cursor: bytes | int = 0
    removed = 0
    while True:
        cursor, names = await redis.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
        if names:
            removed += await redis.call("UNLINK", *names)
        if int(cursor) == 0:
            return removed


def main() -> int:
    """Delete the keys that the environment names; return the exit code."""
    try:
        asyncio.run(erase(Settings.read(os.environ), with_library="--library" in sys.argv[1:]))
    except PolluxError as error:
        sys.stderr.write(f"pollux: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
