"""Load and completion rate of each partition: whether there is room, and when to retry.

Room runs out in an order: with memory short, batches are refused first, then accounts of the free
tier, then everyone (`has_memory` in shared/stores/partition_load.py). `Retry-After` is the backlog
divided by the recent completion rate, plus jitter: at 50 ended generations a second, a rejection
that needs 200 to end says 4 to 6 s, so that callers refused together do not return together.
"""

import asyncio
import math
import random
from typing import Final

from api.refresh_ahead_cache import RefreshAheadCache
from shared.clock import Clock
from shared.redis import keys
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.stores import partition_load
from shared.stores.partition_load import PartitionLoad

_TRUSTED_SECONDS: Final = 2.0
# The completion rate is smoothed over about this time.
_RATE_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = (1.0, 300.0)
_UNKNOWN_SECONDS: Final = 10.0
_JITTER: Final = (1.0, 1.5)
# A retry at a full queue is worth it once this share of it has ended.
_ROOM_SHARE: Final = 0.01


class LoadMonitor:
    """Load and completion rate of every partition, as this process knows them."""

    def __init__(self, redis: Connection, settings: RedisSettings, clock: Clock) -> None:
        self._redis = redis
        self._roots = [keys.partition_root(settings, each) for each in range(settings.partitions)]
        self._cache = RefreshAheadCache(self._measure_all, clock, trusted_seconds=_TRUSTED_SECONDS)
        self._previous: dict[str, PartitionLoad] = {}
        self._rates: dict[str, float] = {}

    async def loads(self) -> dict[str, PartitionLoad]:
        """Return the load of each partition by its root, as of at most two seconds ago."""
        return await self._cache.get(None)

    def rate(self, root: str) -> float:
        """Return how many generations of a partition end a second; 0 if none was seen to end."""
        return self._rates.get(root, 0.0)

    async def _measure_all(self, _: None) -> dict[str, PartitionLoad]:
        loads = await asyncio.gather(*map(self._measure, self._roots))
        return dict(zip(self._roots, loads, strict=True))

    async def _measure(self, root: str) -> PartitionLoad:
        now = await partition_load.read_load(self._redis, root)
        previous = self._previous.get(root)
        if previous is not None and now.at_ms > previous.at_ms:
            seconds = (now.at_ms - previous.at_ms) / 1000
            # After a loss of data the counter starts at 0: nothing counts as ended then.
            measured_rate = max(0, now.ended - previous.ended) / seconds
            weight = min(1.0, seconds / _RATE_SECONDS)
            smoothed = self._rates.get(root, measured_rate)
            self._rates[root] = smoothed + weight * (measured_rate - smoothed)
        self._previous[root] = now
        return now


def seconds_until_ended(count: float, rate: float) -> int:
    """Return in how many whole seconds `count` more generations will have ended, with jitter.

    `rate` is how many end a second; 0 if it is not known.
    """
    return _jittered(count / rate if rate > 0 else _UNKNOWN_SECONDS)


def seconds_until_room(now: PartitionLoad, rate: float) -> int:
    """Return in how many seconds a retry is worth it, at a full queue or a full server."""
    return seconds_until_ended(max(1.0, now.unfinished * _ROOM_SHARE), rate)


def _jittered(seconds: float) -> int:
    low, high = _RETRY_SECONDS
    jitter = random.uniform(*_JITTER)  # noqa: S311  jitter, not a secret
    # Bounded before the jitter: clients of a long backlog must not return together either.
    return math.ceil(min(high / _JITTER[1], max(low, seconds)) * jitter)
