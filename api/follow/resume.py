"""A POST that was sent again with `Last-Event-ID`: which generation it goes on with.

Owns what a generation keeps of the request that made it, and the comparison. A request with a
`Last-Event-ID` never starts a generation: the id names it, or the Idempotency-Key does. Nothing is
found by the body alone, because two people behind one API key may say the same.
"""

import hashlib
from typing import Final

from api.accept import accept, rejections
from api.accept.accept import Idempotency, Receipt
from api.endpoints import parameters
from api.endpoints.endpoint import RequestContext
from api.follow import event_ids
from api.follow.event_ids import EventId
from shared.errors import Code, RequestError
from shared.stores import generations, idempotency_records

# In hexadecimal digits: enough to tell requests of one account apart, and kept for each of them.
_REQUEST_DIGITS: Final = 16
_KEY_DIGITS: Final = 8


def origin(context: RequestContext, route: str) -> str:
    """Return what a generation keeps of its request: hashes of route and body, and of API key."""
    request = hashlib.sha256(route.encode() + b"\n" + context.raw).hexdigest()
    key = hashlib.sha256(context.caller.key.id.encode()).hexdigest()
    return request[:_REQUEST_DIGITS] + key[:_KEY_DIGITS]


def last_event_id(context: RequestContext) -> EventId | None:
    """Return the event that a request goes on after, or None for a request that begins.

    Raises:
        RequestError: INVALID_FIELDS for what is no id of an event.

    """
    text = context.field(b"last-event-id")
    return event_ids.read(text) if text else None


async def receipt(
    context: RequestContext, last_event: EventId, idempotency: Idempotency | None, route: str
) -> Receipt:
    """Return the receipt of the generation that a request goes on with.

    Raises:
        RequestError: GENERATION_NOT_FOUND, also for what another API key made;
            IDEMPOTENCY_MISMATCH where it was made by another request; INVALID_FIELDS where neither
            the id nor an Idempotency-Key names one.
    """
    accept.note_replayed(context.caller)
    if last_event.generation is None and idempotency is None:
        raise RequestError(
            "`Last-Event-ID` names no generation; send the whole id, as in GENERATION:1-7.",
            Code.INVALID_FIELDS,
        )
    known = None if idempotency is None else await _by_key(context, idempotency)
    if last_event.generation is None or known is not None:
        if known is None:
            raise parameters.unknown_generation()
        if last_event.generation not in {None, known.generation}:
            raise rejections.idempotency_mismatch()
        return known
    return await _by_id(context, last_event.generation, route)


async def _by_key(context: RequestContext, idempotency: Idempotency) -> Receipt | None:
    """Return what an Idempotency-Key stands for, or None."""
    caller = context.caller
    found = await idempotency_records.find(
        context.state.redis, caller.root, caller.account.id, idempotency.key
    )
    if found is None:
        return None
    if found.fingerprint != idempotency.fingerprint or found.generation is None:
        raise rejections.idempotency_mismatch()
    return Receipt(found.generation, found.session, None, None)


async def _by_id(context: RequestContext, generation: str, route: str) -> Receipt:
    caller = context.caller
    found = await generations.origin(
        context.state.redis, caller.root, caller.account.id, generation
    )
    if found is None:
        raise parameters.unknown_generation()
    own = origin(context, route)
    if found.request and found.request[_REQUEST_DIGITS:] != own[_REQUEST_DIGITS:]:
        raise parameters.unknown_generation()
    if found.request != own:
        raise RequestError(
            "The generation that `Last-Event-ID` names was made by another request.",
            Code.IDEMPOTENCY_MISMATCH,
        )
    return Receipt(generation, found.session, None, None)
