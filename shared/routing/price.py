"""What an answer costs, in microcredits: 1 credit = 10^6 microcredits = $0.01.

Owns the arithmetic of rates (US dollars per million tokens, and per 1,000 searches) and the
estimate of tokens. Prices are rounded up once, at the end; estimates err on the high side. Example:
2,000 tokens in at $0.25 and 500 out at $2.00 cost $0.0015 = 150,000 microcredits = 0.15 credits.
"""

import math
from typing import Final

import msgspec

from shared.settings import ModelSettings
from shared.wire.message import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE

# A dollar per million tokens is a microdollar per token, and a microdollar is 100 microcredits.
_MICROCREDITS_PER_MICRODOLLAR: Final = 100
# A dollar per 1,000 searches is 1,000 microdollars per search.
_MICRODOLLARS_PER_SEARCH: Final = 1_000
# At least what a picture of any size takes with nearly all models that see.
IMAGE_TOKENS: Final = 1_600


class Searches(msgspec.Struct, frozen=True):
    """Web searches, and their rate in US dollars per 1,000."""

    count: int = 0
    rate: float = 0.0

    @property
    def microdollars(self) -> float:
        """Their price, not rounded."""
        return self.count * self.rate * _MICRODOLLARS_PER_SEARCH


NO_SEARCH: Final = Searches()


def tokens_in(text: str) -> int:
    """Estimate a message's tokens, high: English has about 4 bytes a token, most else about 3."""
    return len(text.encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def tokens_in_bytes(count: int) -> int:
    """Estimate the tokens of a message of so many bytes, as `tokens_in` does."""
    return count // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def history_max(model: ModelSettings, tokens: int, taken: int) -> int:
    """Return how many tokens of a history fit the window beside those taken."""
    return max(0, min(tokens, model.context_window - taken))


def cost(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: Searches = NO_SEARCH
) -> int:
    """Return the price in microcredits, rounded up."""
    microdollars = input_tokens * model.input_rate + output_tokens * model.output_rate
    return _rounded_up(microdollars + searches.microdollars)


def search_cost(searches: Searches) -> int:
    """Return the searches' part of a price in microcredits, rounded up by itself."""
    return _rounded_up(searches.microdollars)


def _rounded_up(microdollars: float) -> int:
    # Floats make 570 * 74.355 slightly too large; rounding to 4 digits first avoids a microcredit
    # too much.
    return math.ceil(round(microdollars * _MICROCREDITS_PER_MICRODOLLAR, 4))


def input_price(model: ModelSettings) -> float:
    """Return the price of an input token in microcredits, not rounded."""
    return model.input_rate * _MICROCREDITS_PER_MICRODOLLAR


def tokens_of_answer(output_tokens: int) -> int:
    """Estimate the input tokens of an answer that is sent again: six bytes an output token."""
    return tokens_in_bytes(6 * output_tokens)


def affordable_tokens(
    model: ModelSettings, input_tokens: int, budget: int, searches: Searches = NO_SEARCH
) -> int:
    """Return how many output tokens a budget in microcredits pays for, within the model's limit."""
    if cost(model, input_tokens, 0, searches) > budget:
        return 0
    if model.output_rate == 0:
        return model.max_output_tokens
    spent = input_tokens * model.input_rate + searches.microdollars
    left = budget - spent * _MICROCREDITS_PER_MICRODOLLAR
    # Round to the nearest token; the price then decides whether that is one too many.
    tokens = int(left / (model.output_rate * _MICROCREDITS_PER_MICRODOLLAR) + 0.5)
    tokens = max(0, min(model.max_output_tokens, tokens))
    is_paid = cost(model, input_tokens, tokens, searches) <= budget
    return tokens if is_paid else max(0, tokens - 1)
