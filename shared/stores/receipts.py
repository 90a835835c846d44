"""What an Idempotency-Key stands for: the fingerprint of its request, and the ids of its answer.

Written by the functions that accept a message or create a session; here it is only read.
"""

import hashlib
from typing import NamedTuple

from shared.redis import keys
from shared.redis.client import Connection


class StoredReceipt(NamedTuple):
    """What was kept of the first request; `generation` is None where a session was created."""

    fingerprint: str
    generation: str | None
    session: str


def hashed(key: str) -> str:
    """Return what stands for a caller's key, which is of any form."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


async def find(redis: Connection, root: str, account: str, key: str) -> StoredReceipt | None:
    """Return what an account's key stands for, or None. `key` is its hash."""
    where = keys.IDEMPOTENCY(root, account, key)
    fields = await redis.call("HMGET", where, "fingerprint", "generation", "session")
    fingerprint, generation, session = fields
    if fingerprint is None:
        return None
    return StoredReceipt(
        fingerprint.decode(), None if generation is None else generation.decode(), session.decode()
    )
