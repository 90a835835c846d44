"""arq's own queue, for chores.

Owns how arq reaches Redis: an id and a name travel, in msgpack, never in pickle. Refuses to hold
generations: they wait in the partitions' lanes.

DESIGN. A worker takes whatever its queue holds, and drops a chore that it does not know. So the
queue's name tells which chores are sent there, and workers of different versions share a queue only
if they know the same ones. That a chore runs once a slot in the whole fleet is not the queue's.
"""

import hashlib
from typing import Final

import msgspec
from arq.connections import ArqRedis

from shared.redis import dsn, keys
from shared.redis.client import RedisError
from shared.settings import RedisSettings

# What arq's own client raises when Redis is away.
QUEUE_ERRORS: Final = (RedisError, OSError)

CHORES: Final = ("trim", "forget", "recount", "sweep")
_CHORES_DIGEST: Final = hashlib.sha256(" ".join(CHORES).encode()).hexdigest()[:12]

serialize = msgspec.msgpack.Encoder().encode
deserialize = msgspec.msgpack.Decoder().decode


def name(root: str) -> str:
    """Return the queue of all workers that know the same chores, below the system's root."""
    return keys.CHORES(root, _CHORES_DIGEST)


def health_key(root: str) -> str:
    """Return where arq notes that the queue is looked after."""
    return keys.CHORES_HEALTH(root, _CHORES_DIGEST)


def pool(settings: RedisSettings) -> ArqRedis:
    """Return arq's client for chores, which dials when it is asked; as patient as our own lines.

    Not by arq's `create_pool`: who is cancelled in its midst has a line that nobody can close.
    """
    where = dsn.read(settings.url)
    return ArqRedis(
        job_serializer=serialize,
        job_deserializer=deserialize,
        default_queue_name=name(keys.system_root(settings)),
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
