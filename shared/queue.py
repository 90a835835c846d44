"""arq's own queue, for chores.

Owns how arq reaches Redis: an id and a name travel, in msgpack, never in pickle. Refuses to hold
generations: they wait in the partitions' lanes.
"""

from typing import Final

import msgspec
from arq.connections import ArqRedis

from shared.redis import dsn, keys
from shared.redis.client import RedisError
from shared.settings import RedisSettings

# What arq's own client raises when Redis is away.
TROUBLE: Final = (RedisError, OSError)

serialize = msgspec.msgpack.Encoder().encode
deserialize = msgspec.msgpack.Decoder().decode


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
