"""How busy a partition is, and how full its server."""

from typing import NamedTuple

from shared.redis import functions
from shared.redis.client import Connection
from shared.redis.functions import PartitionLoadAsk
from shared.tiers import LimitSettings, TierName
from shared.wire.submission import Lane


class PartitionLoad(NamedTuple):
    """A partition at one moment, in ms of Redis' clock; `ended` counts all that ever ended.

    `used_share` is the used part of the server's `memory_bytes`, 0 where these have no bound.
    """

    at_ms: int = 0
    unfinished: int = 0
    running: int = 0
    ended: int = 0
    used_share: float = 0.0
    memory_bytes: int = 0


async def read_load(redis: Connection, root: str) -> PartitionLoad:
    """Return the partition's load."""
    reply = await functions.partition_load(redis, root, PartitionLoadAsk())
    share = reply.used_bytes / reply.memory_max_bytes if reply.memory_max_bytes else 0.0
    return PartitionLoad(
        reply.now_ms,
        reply.unfinished,
        reply.running,
        reply.ended,
        share,
        reply.memory_max_bytes,
    )


def has_memory(
    now: PartitionLoad, limits: LimitSettings, lane: Lane, tier: TierName, bytes_more: int = 0
) -> bool:
    """Tell whether the server has memory for another generation of a lane and a tier.

    `bytes_more` is what is known to be stored soon.
    """
    share_max = limits.memory_share_max
    if lane == "batch":
        share_max = min(share_max, limits.memory_share_max_batch)
    if tier == "free":
        share_max = min(share_max, limits.memory_share_max_free)
    share_more = bytes_more / now.memory_bytes if now.memory_bytes else 0.0
    return now.used_share + share_more < share_max
