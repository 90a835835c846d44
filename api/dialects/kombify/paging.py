"""Which part of a list a caller asks for: the query's parameters, and their bounds."""

from typing import Final

from api.endpoints import parameters
from api.endpoints.endpoint import Query, RequestContext

_LIMIT_DEFAULT: Final = 20
_LIMIT_MAX: Final = 100
PAGING: Final = (
    Query("limit", "integer", "How many at most: 20 when omitted; more than 100 is 100."),
    Query("offset", "integer", "How many to leave out, from 0."),
)


def limit_and_offset(context: RequestContext) -> tuple[int, int]:
    """Return how many items to list, and how many to leave out before them."""
    limit = parameters.whole_number(context, "limit", _LIMIT_DEFAULT, at_least=1)
    return min(limit, _LIMIT_MAX), parameters.whole_number(context, "offset", 0, at_least=0)
