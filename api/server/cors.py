"""CORS: which web pages may call this API, and the headers that allow it.

Owns the lists of what a page may send and read. The protocol adds these headers to every response,
so that a page can also read a refusal that no route made. Cookies are never used: a page must have
an API key.
"""

from functools import cache
from typing import Final

from api.server.request_head import Fields

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Headers that a page may send.
REQUEST_FIELDS: Final = (
    "X-API-Key",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "If-None-Match",
    "X-Request-ID",
)
# Headers that a page may read, beside those that it may always read.
RESPONSE_FIELDS: Final = (
    "X-Request-ID",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "Poll-Interval-Hint",
    "Batch-State",
    "Idempotent-Replayed",
    "ETag",
    "Location",
    "Allow",
    "WWW-Authenticate",
    "Content-Disposition",
    "Date",
)
# Every origin.
ANY: Final = "*"

# Two hours, Chromium's maximum; until then a browser sends no second preflight for a path.
_PREFLIGHT_SECONDS: Final = 7200
_VARY: Final = (b"vary", b"Origin")


class Cors:
    """The CORS headers for the allowed origins; `*` allows all."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        exposed = (b"access-control-expose-headers", ", ".join(RESPONSE_FIELDS).encode())
        self._by_origin: dict[bytes, Fields] = {
            origin.encode(): [_VARY, _allowed(origin), exposed] for origin in origins
        }
        self._fields_without_match: Fields = [_VARY] if origins else []
        if ANY in origins:
            self._by_origin = {}
            self._fields_without_match = [_allowed(ANY), exposed]

    def add_to(self, fields: Fields, request_fields: Fields) -> Fields:
        """Return a response's fields with the CORS headers for the request's origin."""
        if not self._fields_without_match:
            return fields
        for name, value in request_fields:
            if name == b"origin":
                return fields + self._by_origin.get(value, self._fields_without_match)
        return fields + self._fields_without_match


def _allowed(origin: str) -> tuple[bytes, bytes]:
    return b"access-control-allow-origin", origin.encode()


@cache
def for_origins(origins: tuple[str, ...]) -> Cors:
    """Return the headers for the configured origins; cached."""
    return Cors(origins)


def is_preflight(method: str, request_fields: Fields) -> bool:
    """Whether a browser asks if a page may send another request."""
    return method == "OPTIONS" and {b"origin", b"access-control-request-method"} <= {
        name for name, _ in request_fields
    }


# The protocol adds the allowed origin; without it a browser ignores these.
PREFLIGHT: Final = {
    "access-control-allow-methods": ", ".join(METHODS),
    "access-control-allow-headers": ", ".join(REQUEST_FIELDS),
    "access-control-max-age": str(_PREFLIGHT_SECONDS),
}
