"""What every dialect reads from a request's path, query and headers, and how it refuses them.

Owns ids, whole numbers, and the idempotency key. Bodies are read by their types.
"""

import re
from datetime import date
from typing import Final

from api.accept.accept import Idempotency
from api.endpoints.endpoint import RequestContext
from shared import ids
from shared.errors import Code, RequestError
from shared.telemetry import logs

_KEY_CHARACTERS_MAX: Final = 255
# A number with more names no page of anything.
_DIGITS_MAX: Final = 9
_DAY: Final = re.compile(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}")


def idempotency(context: RequestContext, route: str) -> Idempotency | None:
    """Return the caller's key, if any, for this route and body."""
    key = context.field(b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= _KEY_CHARACTERS_MAX:
        raise RequestError("Idempotency-Key has 1 to 255 characters.", Code.INVALID_FIELDS)
    return Idempotency.of(key, route, context.raw)


def generation_id(context: RequestContext) -> str:
    """Return the generation that the path names, as far as it can be one."""
    generation = context.path["generation_id"]
    if not ids.is_id(generation):
        raise unknown_generation()
    logs.bind(generation=generation)
    return generation


def session_id(context: RequestContext) -> str:
    """Return the session that the path names, as far as it can be one."""
    session = context.path["session_id"]
    if not ids.is_id(session):
        raise unknown_session()
    return session


def unknown_generation() -> RequestError:
    """Return the refusal of a generation that the account does not have."""
    return RequestError("There is no such generation.", Code.GENERATION_NOT_FOUND)


def unknown_session() -> RequestError:
    """Return the refusal of a session that the account does not have."""
    return RequestError("There is no such session.", Code.SESSION_NOT_FOUND)


def day(context: RequestContext, name: str, default: date) -> date:
    """Return a parameter of the query as a day, `YYYY-MM-DD`."""
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
    """Return a parameter of the query as a number."""
    text = context.query.get(name)
    if text is None:
        return default
    if (
        not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX)
        or int(text) < at_least
    ):
        raise RequestError(
            f"The parameter `{name}` must be a whole number, {at_least} or more.",
            Code.INVALID_FIELDS,
        )
    return int(text)
