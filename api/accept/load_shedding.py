"""Whom to turn away when there is too much, and when they may come again.

Owns the order in which room is kept: batches are the first to go, then accounts of the free tier,
then all. And the time after which trying again makes sense: what waits, by the rate at which it was
lately seen to end, spread so that those turned away together do not come back together.
"""

import math
import random
from typing import Final

from api.refresh_ahead_cache import RefreshAheadCache
from shared.clock import Clock
from shared.redis.client import Connection
from shared.stores import partition_load
from shared.stores.partition_load import PartitionLoad

_TRUSTED_SECONDS: Final = 2.0
# The rate is that of about so long a time.
_RATE_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = (1.0, 300.0)
_UNKNOWN_SECONDS: Final = 10.0
_JITTER: Final = (1.0, 1.5)
# Of a full queue, this much should have ended before it is worth a try.
_ROOM_SHARE: Final = 0.01


class LoadMonitor:
    """How busy each partition is and how fast its work ends, as this process knows it."""

    def __init__(self, redis: Connection, clock: Clock) -> None:
        self._redis = redis
        self._loads = RefreshAheadCache(self._measure, clock, trusted_seconds=_TRUSTED_SECONDS)
        self._previous: dict[str, PartitionLoad] = {}
        self._rates: dict[str, float] = {}

    async def of(self, root: str) -> PartitionLoad:
        """Return how busy a partition is, as of at most two seconds ago."""
        return await self._loads.get(root)

    def rate(self, root: str) -> float:
        """Return how many generations of a partition end a second; 0 if none was seen to."""
        return self._rates.get(root, 0.0)

    async def _measure(self, root: str) -> PartitionLoad:
        now = await partition_load.read_load(self._redis, root)
        previous = self._previous.get(root)
        if previous is not None and now.at_ms > previous.at_ms:
            seconds = (now.at_ms - previous.at_ms) / 1000
            # A counter that begins anew has counted nothing yet.
            measured_rate = max(0, now.ended - previous.ended) / seconds
            weight = min(1.0, seconds / _RATE_SECONDS)
            smoothed = self._rates.get(root, measured_rate)
            self._rates[root] = smoothed + weight * (measured_rate - smoothed)
        self._previous[root] = now
        return now


def seconds_until_ended(count: float, rate: float) -> int:
    """Return after how many whole seconds `count` more will have ended, spread.

    `rate` is a second's; 0 if it is not known.
    """
    return _jittered(count / rate if rate > 0 else _UNKNOWN_SECONDS)


def seconds_until_room(now: PartitionLoad, rate: float) -> int:
    """Return when a try at a full queue, or a full server, is worth it again."""
    return seconds_until_ended(max(1.0, now.unfinished * _ROOM_SHARE), rate)


def _jittered(seconds: float) -> int:
    low, high = _RETRY_SECONDS
    jitter = random.uniform(*_JITTER)  # noqa: S311  jitter, not a secret
    # Bounded before it is spread: also those of a long backlog must not come back together.
    return math.ceil(min(high / _JITTER[1], max(low, seconds)) * jitter)
