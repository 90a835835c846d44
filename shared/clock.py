"""Wall clock, monotonic clock and sleep, which tests can replace.

Owns the product's only calls to `time` and `asyncio.sleep`. Refuses to time a generation: when it
was accepted or ended is Redis' own time, so that all processes agree.
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

MS_PER_DAY: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND: Final = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST_SECOND: Final = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


class Clock(Protocol):
    """The time source that components are given."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; they never decrease."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The time source of the operating system."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    # The builtin itself: it is read several times in each request.
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)


def iso(ms: int) -> str:
    """Format milliseconds since the epoch as `YYYY-MM-DDTHH:MM:SSZ`, the form that the APIs show.

    A stored time beyond the calendar (years 1 to 9999) is shown as its nearest end instead of
    raising.
    """
    return _iso(ms // 1000)


def instant(text: str) -> int | None:
    """Return the milliseconds since the epoch of `YYYY-MM-DD[THH:MM:SSZ]`, or None if it is none.

    Without an offset the time is UTC. Converted to UTC it must lie in the years 1 to 9999.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        since = moment.astimezone(UTC) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return int(since.total_seconds() * 1000)


@lru_cache(maxsize=4096)
def _iso(seconds: int) -> str:
    within = min(max(seconds, _FIRST_SECOND), _LAST_SECOND)
    return datetime.fromtimestamp(within, UTC).isoformat()[:-6] + "Z"
