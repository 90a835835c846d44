"""How busy a partition is: what waits, how fast it ends, and how full its server is."""

from typing import NamedTuple

from shared.redis import functions
from shared.redis.client import Connection
from shared.redis.functions import PressureAsk
from shared.tiers import LimitSettings, TierName
from shared.wire.submission import Lane


class Pressure(NamedTuple):
    """A partition at one moment, in ms of Redis' clock; `ended` counts what has ended, ever.

    `used_share` is the part of the server's memory that is taken, 0 where it has no bound.
    """

    at_ms: int = 0
    unfinished: int = 0
    running: int = 0
    ended: int = 0
    used_share: float = 0.0


async def look(redis: Connection, root: str) -> Pressure:
    """Return how busy the partition is."""
    seen = await functions.pressure(redis, root, PressureAsk())
    share = seen.used_bytes / seen.most_bytes if seen.most_bytes else 0.0
    return Pressure(seen.now_ms, seen.unfinished, seen.running, seen.ended, share)


def has_memory(now: Pressure, limits: LimitSettings, lane: Lane, tier: TierName) -> bool:
    """Tell whether the server has memory for one more of a lane and a tier."""
    most = limits.memory_share_max
    if lane == "batch":
        most = min(most, limits.memory_share_max_batch)
    if tier == "free":
        most = min(most, limits.memory_share_max_free)
    return now.used_share < most
