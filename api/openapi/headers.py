"""The headers of requests and responses, described once for every operation.

Owns their descriptions in the document. They are read and set where each is used.
"""

from typing import Any, Final, NamedTuple


class Header(NamedTuple):
    """A header: its description, and the schema of its value.

    `is_always_sent`: no response for which it is documented lacks it.
    """

    name: str
    description: str
    schema: dict[str, Any]
    is_always_sent: bool = False


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}

_REQUEST_HEADERS: Final = (
    Header(
        "X-Request-ID",
        "An id for this request, returned as it is; any other value is replaced by a new id.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    ),
    Header(
        "Idempotency-Key",
        "Makes the request safe to repeat: for 24 hours, by default, the same key with the same "
        "body is answered for what the first request made, and with another body it is 422.",
        {"type": "string", "minLength": 1, "maxLength": 255},
    ),
    Header(
        "If-None-Match",
        "The `ETag` of an earlier answer: 304 while nothing has changed. With `wait`, the answer "
        "comes at the first change.",
        _TEXT,
    ),
    Header(
        "Last-Event-ID",
        "The `id` of the last event that was read: the stream continues after it, and a POST "
        "starts nothing new. It takes precedence over `after`.",
        _TEXT,
    ),
)
_RESPONSE_HEADERS: Final = (
    Header("X-Request-ID", "The request's id: the caller's own, or a new one.", _TEXT, True),
    Header(
        "Cache-Control",
        "`no-store`: no cache may keep the answer. A stream also has `no-transform`.",
        _TEXT,
        True,
    ),
    Header(
        "X-Content-Type-Options",
        "`nosniff`: the content has the type that its header names.",
        _TEXT,
        True,
    ),
    Header("ETag", "A weak tag that changes with the generation.", _TEXT, True),
    Header("Poll-Interval-Hint", "Seconds to wait before the next poll.", _COUNT, True),
    Header(
        "Idempotent-Replayed",
        "`true` where the response is about what an earlier request with this key created.",
        {"type": "string", "const": "true"},
    ),
    Header("Batch-State", "The batch's `state` when the answer began.", _TEXT, True),
    Header("Location", "The path of what was created.", _TEXT, True),
    Header("Retry-After", "Seconds after which to try again.", _COUNT, True),
    Header("RateLimit-Limit", "How many requests the account may make a minute.", _COUNT),
    Header("RateLimit-Remaining", "How many of them it may make at once, now.", _COUNT),
    Header("RateLimit-Reset", "Seconds until all of them may be made again.", _COUNT),
    Header("WWW-Authenticate", "How to authenticate.", _TEXT, True),
)

REQUEST_HEADERS: Final = {header.name: header for header in _REQUEST_HEADERS}
RESPONSE_HEADERS: Final = {header.name: header for header in _RESPONSE_HEADERS}

ALWAYS_SENT: Final = ("X-Request-ID", "Cache-Control", "X-Content-Type-Options")
RATE: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
ACCEPTED: Final = ("Idempotent-Replayed", *RATE)
