"""All exchanges, by what is tried with them."""

from typing import Final

from tests.exchanges import endings, liveness, odd_answers, recoveries, refusals, shipped_models
from tests.exchanges.exchange import Exchange

KINDS: Final[dict[str, tuple[Exchange, ...]]] = {
    "one-request": refusals.ONE_REQUEST,
    "errors": endings.ERRORS,
    "pauses": endings.PAUSES,
    "reasons": endings.REASONS,
    "waits": refusals.WAITS,
    "unpaid": refusals.UNPAID,
    "overflow": refusals.OVERFLOW,
    "policy": refusals.POLICY,
    "in-band": refusals.IN_BAND,
    "details": odd_answers.DETAILS,
    "money": odd_answers.MONEY,
    "asked": shipped_models.SHIPPED_MODELS,
    "empty": endings.EMPTY,
    "wrappings": odd_answers.WRAPPINGS,
    "liveness": liveness.LIVENESS,
    "recoveries": recoveries.RECOVERIES,
}
