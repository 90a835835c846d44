"""All exchanges, by what is tried with them."""

from typing import Final

from tests.exchanges import asked, ends, liveness, odd, recoveries, refusals
from tests.exchanges.exchange import Exchange

KINDS: Final[dict[str, tuple[Exchange, ...]]] = {
    "one-request": refusals.ONE_REQUEST,
    "errors": ends.ERRORS,
    "pauses": ends.PAUSES,
    "reasons": ends.REASONS,
    "waits": refusals.WAITS,
    "unpaid": refusals.UNPAID,
    "overflow": refusals.OVERFLOW,
    "policy": refusals.POLICY,
    "in-band": refusals.IN_BAND,
    "details": odd.DETAILS,
    "money": odd.MONEY,
    "asked": asked.ASKED,
    "empty": ends.EMPTY,
    "wrappings": odd.WRAPPINGS,
    "liveness": liveness.LIVENESS,
    "recoveries": recoveries.RECOVERIES,
}
