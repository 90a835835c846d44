"""Whom to turn away when there is too much, and when they may come again.

Owns the order in which room is kept: batches are the first to go, then accounts of the free tier,
then all. And the time after which trying again makes sense: what waits, by the rate at which it was
lately seen to end, spread so that those turned away together do not come back together.
"""

import math
import random
from typing import Final

from api.fresh import Fresh
from shared.clock import Clock
from shared.redis.client import Connection
from shared.stores import pressure
from shared.stores.pressure import Pressure

_TRUSTED_SECONDS: Final = 2.0
# The rate is that of about so long a time.
_RATE_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = (1.0, 300.0)
_UNKNOWN_SECONDS: Final = 10.0
_JITTER: Final = (1.0, 1.5)
# Of a full queue, this much should have ended before it is worth a try.
_ROOM_SHARE: Final = 0.01


class Pressures:
    """How busy each partition is and how fast its work ends, as this process knows it."""

    def __init__(self, redis: Connection, clock: Clock) -> None:
        self._redis = redis
        self._seen = Fresh(self._look, clock, trusted_seconds=_TRUSTED_SECONDS)
        self._last: dict[str, Pressure] = {}
        self._rates: dict[str, float] = {}

    async def of(self, root: str) -> Pressure:
        """Return how busy a partition is, as of at most two seconds ago."""
        return await self._seen.get(root)

    def rate(self, root: str) -> float:
        """Return how many generations of a partition end a second; 0 if none was seen to."""
        return self._rates.get(root, 0.0)

    async def _look(self, root: str) -> Pressure:
        now = await pressure.look(self._redis, root)
        before = self._last.get(root)
        if before is not None and now.at_ms > before.at_ms:
            seconds = (now.at_ms - before.at_ms) / 1000
            # A counter that begins anew has counted nothing yet.
            seen = max(0, now.ended - before.ended) / seconds
            weight = min(1.0, seconds / _RATE_SECONDS)
            known = self._rates.get(root, seen)
            self._rates[root] = known + weight * (seen - known)
        self._last[root] = now
        return now


def seconds_until_ended(count: float, rate: float) -> int:
    """Return after how many whole seconds `count` more will have ended, spread.

    `rate` is a second's; 0 if it is not known.
    """
    return _spread(count / rate if rate > 0 else _UNKNOWN_SECONDS)


def seconds_until_room(now: Pressure, rate: float) -> int:
    """Return when a try at a full queue, or a full server, is worth it again."""
    return seconds_until_ended(max(1.0, now.unfinished * _ROOM_SHARE), rate)


def _spread(seconds: float) -> int:
    low, high = _RETRY_SECONDS
    jitter = random.uniform(*_JITTER)  # noqa: S311  jitter, not a secret
    # Bounded before it is spread: also those of a long backlog must not come back together.
    return math.ceil(min(high / _JITTER[1], max(low, seconds)) * jitter)
