"""arq's queue, which carries chores and nothing else.

Owns how arq reaches Redis: an id and a name travel as msgpack, never as pickle. Refuses
generations: they wait in the partitions' lanes.

DESIGN. An arq worker takes every job of its queue and drops one that it does not know. So the
queue's name has a digest of the chores' names: workers of two versions share a queue only if they
know the same chores. That a chore runs once for each slot in the whole fleet is decided elsewhere
(`CHORE_SLOT` in shared/redis/keys.py).
"""

import hashlib
from typing import Final

import msgspec
from arq.connections import ArqRedis

from shared.redis import dsn, keys
from shared.redis.client import RedisError
from shared.settings import RedisSettings

# Raised by arq's own client while Redis is away.
QUEUE_ERRORS: Final = (RedisError, OSError)

CHORES: Final = ("trim", "forget", "recount", "sweep")
_CHORES_DIGEST: Final = hashlib.sha256(" ".join(CHORES).encode()).hexdigest()[:12]

serialize = msgspec.msgpack.Encoder().encode
deserialize = msgspec.msgpack.Decoder().decode


def name(root: str) -> str:
    """Return the name of the queue of all workers that know the same chores."""
    return keys.CHORES(root, _CHORES_DIGEST)


def health_key(root: str) -> str:
    """Return the key in which arq notes that a worker serves the queue."""
    return keys.CHORES_HEALTH(root, _CHORES_DIGEST)


def pool(settings: RedisSettings) -> ArqRedis:
    """Return arq's client for chores; it connects at its first call.

    arq's `create_pool` is not used: cancelled halfway, it leaves a connection that nobody can
    close.
    """
    where = dsn.parse(settings.url)
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
