"""What every dialect reads from path, query and headers, and how it refuses a wrong value.

Owns ids, whole numbers, days and the Idempotency-Key. A body is read by its type.
"""

import re
from datetime import date
from typing import Final

from api import errors
from api.accept.accept import Idempotency
from api.endpoints.endpoint import RequestContext
from api.generation_ref import GenerationRef
from shared import ids
from shared.errors import Code, RequestError
from shared.stores import idempotency_records
from shared.stores.batches import BatchRef
from shared.telemetry import logs

_KEY_CHARACTERS_MAX: Final = 255
# No page has a number with more digits.
_DIGITS_MAX: Final = 9
_NUMBER_MAX: Final = 10**_DIGITS_MAX - 1
_DAY: Final = re.compile(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}")


def idempotency(context: RequestContext, route: str) -> Idempotency | None:
    """Return the caller's Idempotency-Key, if any, for this route and body."""
    key = _idempotency_key(context)
    return None if key is None else Idempotency.of(key, route, context.raw)


def idempotency_key(context: RequestContext) -> str | None:
    """Return the hash of the caller's Idempotency-Key, if any, for a body that is not here yet."""
    key = _idempotency_key(context)
    return None if key is None else idempotency_records.hash_key(key)


def _idempotency_key(context: RequestContext) -> str | None:
    key = context.fields.get(b"idempotency-key")
    if key is not None and not 0 < len(key) <= _KEY_CHARACTERS_MAX:
        raise RequestError("Idempotency-Key has 1 to 255 characters.", Code.INVALID_FIELDS)
    return key


def generation_id(context: RequestContext) -> str:
    """Return the generation that the path names. Raises RequestError if it cannot be an id."""
    generation = context.path["generation_id"]
    if not ids.is_id(generation):
        raise errors.unknown_generation()
    logs.bind(generation=generation)
    return generation


def session_id(context: RequestContext) -> str:
    """Return the session that the path names. Raises RequestError if it cannot be an id."""
    session = context.path["session_id"]
    if not ids.is_id(session):
        raise errors.unknown_session()
    return session


def batch_ref(context: RequestContext) -> BatchRef:
    """Return the caller's batch that the path names. Raises RequestError if it cannot be an id."""
    batch = context.path["batch_id"]
    if not ids.is_id(batch):
        raise errors.unknown_batch()
    return BatchRef(context.caller.root, context.caller.account.id, batch)


def generation_ref(context: RequestContext) -> GenerationRef:
    """Return the caller's generation that the path names. Raises as `generation_id`."""
    return GenerationRef(context.caller.root, context.caller.account.id, generation_id(context))


def day(context: RequestContext, name: str, default: date) -> date:
    """Return a query parameter as a day, `YYYY-MM-DD`."""
    text = context.query.get(name)
    if text is None:
        return default
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise RequestError(
        f"The parameter `{name}` must be a day, as in 2026-01-31.", Code.INVALID_FIELDS
    )


def whole_number(context: RequestContext, name: str, default: int, *, at_least: int) -> int:
    """Return a query parameter as a whole number."""
    text = context.query.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    if not is_number or int(text) < at_least:
        raise RequestError(
            f"The parameter `{name}` must be a whole number from {at_least} to {_NUMBER_MAX}.",
            Code.INVALID_FIELDS,
        )
    return int(text)
