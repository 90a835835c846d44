"""arq's own queue, for chores.

Owns how arq reaches Redis: an id and a name travel, in msgpack, never in pickle. Refuses to hold
generations: they wait in the partitions' lanes.
"""

import math
from typing import Final

import msgspec
from arq.connections import ArqRedis, RedisSettings as ArqSettings

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


def pool(settings: RedisSettings) -> ArqRedis:
    """Return arq's client for chores, which dials when it is asked; as patient as our own lines.

    Not by arq's `create_pool`: who is cancelled in its midst has a line that nobody can close.
    """
    where = dsn.read(settings.url)
    return ArqRedis(
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=keys.CHORES(keys.system_root(settings)),
        host=where.host,
        port=where.port,
        unix_socket_path=where.path,
        db=where.database,
        username=where.username,
        password=where.password,
        ssl=where.is_secure,
        ssl_check_hostname=True,
        socket_connect_timeout=settings.connect_seconds,
        socket_timeout=settings.timeout_seconds,
        retry=None,
    )
