"""Which pages in browsers may call this API, and what their browsers are told of it (CORS).

Owns the list of what a page may send and read. The edge adds these fields to every answer, so that
a page can also read a refusal that no route made. Cookies play no part: a page must know a key.
"""

from functools import cache
from typing import Final

from api.server.request_head import Fields

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# What requests of this API carry.
REQUEST_FIELDS: Final = (
    "X-API-Key",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "If-None-Match",
    "X-Request-ID",
)
# What its answers carry, beside what a page may read anyway.
RESPONSE_FIELDS: Final = (
    "X-Request-ID",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "Poll-Interval-Hint",
    "Idempotent-Replayed",
    "ETag",
    "Location",
    "Allow",
    "WWW-Authenticate",
    "Content-Disposition",
    "Date",
)
# Every origin; browsers then need not be told which.
ANY: Final = "*"

# Chromium's cap is two hours; within it a browser asks once for a path.
_PREFLIGHT_SECONDS: Final = 7200
_VARY: Final = (b"vary", b"Origin")


class Cors:
    """The origins of the settings, if any; `*` stands for all."""

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
        """Return the fields with those for a request with such fields."""
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
    """Return what the origins of the settings come to; made once."""
    return Cors(origins)


def is_preflight(method: str, request_fields: Fields) -> bool:
    """Tell whether a browser asks here if a page may send another request."""
    return method == "OPTIONS" and {b"origin", b"access-control-request-method"} <= {
        name for name, _ in request_fields
    }


# Which origin may, the edge says: without that, a browser takes these for nothing.
PREFLIGHT: Final = {
    "access-control-allow-methods": ", ".join(METHODS),
    "access-control-allow-headers": ", ".join(REQUEST_FIELDS),
    "access-control-max-age": str(_PREFLIGHT_SECONDS),
}
