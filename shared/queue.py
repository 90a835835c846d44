"""The doorbell that wakes an idle worker, and arq's own queue for chores.

Owns the bell's list and how arq reaches Redis: an id and a name travel, in msgpack, never in
pickle. Refuses to hold work: what waits is in the partitions' lanes, and a bell that nobody hears
costs a second.
"""

import itertools
from typing import Final

import msgspec
from arq.connections import ArqRedis, RedisSettings as ArqSettings, create_pool

from shared.redis import keys
from shared.redis.client import Connection, RedisError
from shared.settings import RedisSettings

# More entries than this wake nobody more: each worker that wakes takes as much as it has room for.
_BELLS_MAX: Final = 128
_TRIM_ONCE_IN: Final = 32
_rings: Final = itertools.count()

# What arq's own client raises when Redis is away.
TROUBLE: Final = (RedisError, OSError)

serialize = msgspec.msgpack.Encoder().encode
deserialize = msgspec.msgpack.Decoder().decode


def ring(redis: Connection, settings: RedisSettings, partition: int) -> None:
    """Tell one idle worker that a partition has work; nobody waits for it to arrive."""
    bell = keys.BELL(keys.system_root(settings))
    redis.send("LPUSH", bell, partition)
    if next(_rings) % _TRIM_ONCE_IN == 0:
        redis.send("LTRIM", bell, 0, _BELLS_MAX - 1)


async def hear(redis: Connection, settings: RedisSettings, seconds: float) -> int | None:
    """Block on the bell for at most `seconds`; return the partition that rang, or None."""
    bell = keys.BELL(keys.system_root(settings))
    heard: list[bytes] | None = await redis.call("BLPOP", bell, seconds, repeat=False)
    return int(heard[1]) if heard else None


def arq_settings(settings: RedisSettings) -> ArqSettings:
    """Return where arq finds the same server; it gives up early, the worker tries for ever."""
    return ArqSettings.from_dsn(settings.url)


async def pool(settings: RedisSettings) -> ArqRedis:
    """Open arq's client for chores."""
    return await create_pool(
        arq_settings(settings),
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=keys.CHORES(keys.system_root(settings)),
    )
