"""Time as the processes see it: wall clock, monotonic clock and sleep, which tests can turn.

Owns the only calls to `time` and `asyncio.sleep` in the product. Refuses to say when a generation
was accepted or ended: those times are Redis' own, so that all processes agree.
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


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
    """Format milliseconds since the epoch as `YYYY-MM-DDTHH:MM:SSZ`, as the APIs show them."""
    return _iso(ms // 1000)


def instant(text: str) -> int | None:
    """Return the milliseconds since the epoch of `YYYY-MM-DD[THH:MM:SSZ]`, or None if it is none.

    Without an offset from UTC it is UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int((moment - _EPOCH).total_seconds() * 1000)


@lru_cache(maxsize=4096)
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
