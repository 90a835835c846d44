"""arq's own queue, for chores.

Owns how arq reaches Redis: an id and a name travel, in msgpack, never in pickle. Refuses to hold
generations: they wait in the partitions' lanes.
"""

import asyncio
import math
from typing import Final

import msgspec
from arq.connections import ArqRedis, RedisSettings as ArqSettings, create_pool

from shared.redis import dsn, keys
from shared.redis.client import RedisError
from shared.settings import RedisSettings

# What arq's own client raises when Redis is away.
TROUBLE: Final = (RedisError, OSError)

serialize = msgspec.msgpack.Encoder().encode
deserialize = msgspec.msgpack.Decoder().decode


def arq_settings(settings: RedisSettings) -> ArqSettings:
    """Return where arq finds the same server; it gives up early, the worker tries for ever."""
    where = dsn.read(settings.url)
    return ArqSettings(
        host=where.host,
        port=where.port,
        unix_socket_path=where.path,
        database=where.database,
        username=where.username,
        password=where.password,
        ssl=where.is_secure,
        ssl_check_hostname=True,
        conn_timeout=math.ceil(settings.connect_seconds),
        conn_retries=0,
    )


async def pool(settings: RedisSettings) -> ArqRedis:
    """Open arq's client for chores; a line that has fallen silent ends as ours do, with trouble."""
    async with asyncio.timeout(settings.connect_seconds + settings.timeout_seconds):
        client = await create_pool(
            arq_settings(settings),
            job_serializer=serialize,
            job_deserializer=deserialize,
            default_queue_name=keys.CHORES(keys.system_root(settings)),
        )
    # arq has no word for it; without one, a line that leads nowhere would be waited on for ever.
    client.connection_pool.connection_kwargs["socket_timeout"] = settings.timeout_seconds
    await client.connection_pool.disconnect()
    client.connection_pool.reset()  # type: ignore[no-untyped-call]  # it comes without types
    return client
