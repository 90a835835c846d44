"""What the first request with an Idempotency-Key created: its fingerprint and the ids in its reply.

Written by the functions that accept a message, create a session or count a submission; only read
here.
"""

import hashlib
from typing import NamedTuple

from shared.redis import keys
from shared.redis.client import Connection


class IdempotencyRecord(NamedTuple):
    """What was kept of the first request; `generation` is None where it created something else.

    `session` is None where that is an API key, a batch or a generation without a session.
    """

    fingerprint: str
    generation: str | None
    session: str | None
    api_key: str | None = None
    batch: str | None = None


def hash_key(key: str) -> str:
    """Return the hash under which a caller's key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


async def find(redis: Connection, root: str, account: str, key: str) -> IdempotencyRecord | None:
    """Return the record of an account's key, given by its hash, or None."""
    where = keys.IDEMPOTENCY(root, account, key)
    names = ("fingerprint", "generation", "session", "api_key", "batch")
    fingerprint, generation, session, api_key, batch = await redis.call("HMGET", where, *names)
    if fingerprint is None:
        return None
    return IdempotencyRecord(
        fingerprint.decode(),
        None if generation is None else generation.decode(),
        None if not session else session.decode(),
        None if api_key is None else api_key.decode(),
        None if batch is None else batch.decode(),
    )
