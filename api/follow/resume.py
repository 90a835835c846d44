"""Which generation a POST with `Last-Event-ID` continues.

Owns what a generation keeps of the request that made it, and the comparison. Such a POST never
starts a generation: the event id names it, or the Idempotency-Key does. The body alone identifies
nothing, since two people behind one API key may send the same message.
"""

import hashlib
from functools import lru_cache
from typing import Final

from api import errors
from api.accept import accept, rejections
from api.accept.accept import Idempotency, Receipt
from api.follow.event_ids import EventId
from api.guards.identify import Caller
from shared.errors import Code, RequestError
from shared.redis.client import Redis
from shared.stores import generations, idempotency_records

# Hexadecimal digits kept with each generation: enough to distinguish one account's requests.
_REQUEST_DIGITS: Final = 16
_KEY_DIGITS: Final = 8


def origin(caller: Caller, route: str, raw: bytes) -> str:
    """Return what a generation keeps of its request: hashes of route and body, and of API key."""
    request = hashlib.sha256(route.encode() + b"\n" + raw).hexdigest()
    return request[:_REQUEST_DIGITS] + _key_digits(caller.key.id)


@lru_cache(maxsize=1024)
def _key_digits(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:_KEY_DIGITS]


async def receipt(
    redis: Redis,
    caller: Caller,
    last_event: EventId,
    idempotency: Idempotency | None,
    own_origin: str,
) -> Receipt:
    """Return the receipt of the generation that a request continues.

    Raises:
        RequestError: GENERATION_NOT_FOUND, also for one that another API key made;
            IDEMPOTENCY_MISMATCH where another request made it; INVALID_FIELDS where neither the id
            nor an Idempotency-Key names one.

    """
    accept.note_replayed(caller)
    if last_event.generation is None and idempotency is None:
        raise RequestError(
            "`Last-Event-ID` names no generation; send the whole id, as in GENERATION:1-7.",
            Code.INVALID_FIELDS,
        )
    known = None if idempotency is None else await _by_key(redis, caller, idempotency)
    if last_event.generation is None or known is not None:
        if known is None:
            raise errors.unknown_generation()
        if last_event.generation not in {None, known.generation}:
            raise rejections.idempotency_mismatch()
        return known
    return await _by_id(redis, caller, last_event.generation, own_origin)


async def _by_key(redis: Redis, caller: Caller, idempotency: Idempotency) -> Receipt | None:
    """Return the receipt stored for an Idempotency-Key, or None."""
    found = await idempotency_records.find(redis, caller.root, caller.account.id, idempotency.key)
    if found is None:
        return None
    if found.fingerprint != idempotency.fingerprint or found.generation is None:
        raise rejections.idempotency_mismatch()
    return Receipt(found.generation, found.session, None, None)


async def _by_id(redis: Redis, caller: Caller, generation: str, own: str) -> Receipt:
    found = await generations.origin(redis, caller.root, caller.account.id, generation)
    if found is None:
        raise errors.unknown_generation()
    if found.request and found.request[_REQUEST_DIGITS:] != own[_REQUEST_DIGITS:]:
        raise errors.unknown_generation()
    if found.request != own:
        raise RequestError(
            "The generation that `Last-Event-ID` names was made by another request.",
            Code.IDEMPOTENCY_MISMATCH,
        )
    return Receipt(generation, found.session, None, None)
