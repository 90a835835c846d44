"""The Kolbo dialect as one object."""

from typing import Final

from api.dialects.kolbo.links import LINKS
from api.dialects.kolbo.routes import ABOUT, ENDPOINTS, EVENTS
from api.endpoints.dialect import Dialect
from api.wire import error_reply

KOLBO: Final = Dialect(
    name="kolbo",
    about=ABOUT,
    note="The paths below `/api/v1` also answer below `/api/api/v1`, for clients that join them to "
    "a base that ends in `/api`.",
    # The published sample clients join a base URL that ends in /api to a poll_url that begins so.
    prefixes=("/api/v1", "/api/api/v1"),
    endpoints=ENDPOINTS,
    errors=error_reply.ERRORS,
    links=LINKS,
    encoder=EVENTS,
)
