"""Time as the processes see it: wall clock, monotonic clock and sleep, which tests can turn.

Owns the only calls to `time` and `asyncio.sleep` in the product. Refuses to say when a generation
was accepted or ended: those times are Redis' own, so that all processes agree.
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
    """What a component may ask of time."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never falls."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The machine's own time."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never falls."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)


def iso(ms: int) -> str:
    """Format milliseconds since the epoch as `YYYY-MM-DDTHH:MM:SSZ`, as the APIs show them.

    A time that no calendar date has is shown as the nearest one that has: stored times never raise.
    """
    return _iso(ms // 1000)


def instant(text: str) -> int | None:
    """Return the milliseconds since the epoch of `YYYY-MM-DD[THH:MM:SSZ]`, or None if it is none.

    Without an offset from UTC it is UTC. In UTC it must be of the years 1 to 9999, too.
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
