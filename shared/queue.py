"""arq's own queue, for chores.

Owns how arq reaches Redis: an id and a name travel, in msgpack, never in pickle. Refuses to hold
generations: they wait in the partitions' lanes.
"""

from typing import Final

import msgspec
from arq.connections import ArqRedis, RedisSettings as ArqSettings, create_pool

from shared.redis import keys
from shared.redis.client import RedisError
from shared.settings import RedisSettings

# What arq's own client raises when Redis is away.
TROUBLE: Final = (RedisError, OSError)

serialize = msgspec.msgpack.Encoder().encode
deserialize = msgspec.msgpack.Decoder().decode


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
