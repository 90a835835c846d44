"""The operators' API as one object, mounted on a port of its own."""

from typing import Final

from api.admin.routes import ABOUT, ENDPOINTS
from api.endpoints.dialect import Dialect
from api.wire import error_reply

OPERATORS: Final = Dialect(
    name="operators",
    about=ABOUT,
    prefixes=("/admin/v1",),
    endpoints=ENDPOINTS,
    errors=error_reply.ERRORS,
)
