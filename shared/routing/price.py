"""What an answer costs, in microcredits: 1 credit = 10^6 microcredits = $0.01.

Owns the arithmetic of rates (US dollars per million tokens, and per 1,000 searches) and the
estimate of tokens. Rounded up once, at the end; estimates err on the high side.
"""

import math
from typing import Final

import msgspec

from shared.settings import ModelSettings

# A dollar a million tokens is a microdollar a token, and a microdollar is a hundred microcredits.
_MICROCREDITS_PER_MICRODOLLAR: Final = 100
# A dollar a thousand searches is so many microdollars a search.
_MICRODOLLARS_PER_SEARCH: Final = 1_000
BYTES_PER_TOKEN: Final = 3
_TOKENS_PER_MESSAGE: Final = 8
# More than a picture of any size takes with the models that see, but for some that count otherwise.
IMAGE_TOKENS: Final = 1_600


class Searches(msgspec.Struct, frozen=True):
    """Searches of the web, and their rate in US dollars per 1,000."""

    count: int = 0
    rate: float = 0.0

    @property
    def microdollars(self) -> float:
        """What they cost, not rounded."""
        return self.count * self.rate * _MICRODOLLARS_PER_SEARCH


NO_SEARCH: Final = Searches()


def tokens_in(text: str) -> int:
    """Estimate a message's tokens, high: one holds four bytes of English, three of most else."""
    return len(text.encode()) // BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE


def tokens_in_bytes(count: int) -> int:
    """Estimate, as `tokens_in`, the tokens of a message of so many bytes."""
    return count // BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE


def history_max(model: ModelSettings, tokens: int, taken: int) -> int:
    """Return how many of a history's tokens have room in the window beside what is taken."""
    return max(0, min(tokens, model.context_window - taken))


def cost(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: Searches = NO_SEARCH
) -> int:
    """Return the price of a use in microcredits, rounded up."""
    microdollars = input_tokens * model.input_rate + output_tokens * model.output_rate
    return _rounded_up(microdollars + searches.microdollars)


def search_cost(searches: Searches) -> int:
    """Return the part of a price that searches have, in microcredits, rounded up by itself."""
    return _rounded_up(searches.microdollars)


def _rounded_up(microdollars: float) -> int:
    # Rounding first to a ten-thousandth keeps 570 tokens at 74.355, which floats make a hair too
    # much, from costing one microcredit more than they should.
    return math.ceil(round(microdollars * _MICROCREDITS_PER_MICRODOLLAR, 4))


def input_price(model: ModelSettings) -> float:
    """Return what a token that goes in costs, in microcredits, not rounded."""
    return model.input_rate * _MICROCREDITS_PER_MICRODOLLAR


def tokens_of_answer(output_tokens: int) -> int:
    """Estimate what an answer of so many tokens takes when it is sent again, at six bytes each."""
    return tokens_in_bytes(6 * output_tokens)


def affordable_tokens(
    model: ModelSettings, input_tokens: int, budget: int, searches: Searches = NO_SEARCH
) -> int:
    """Return how many output tokens a budget of microcredits pays for, within the model's limit."""
    if cost(model, input_tokens, 0, searches) > budget:
        return 0
    if model.output_rate == 0:
        return model.max_output_tokens
    spent = input_tokens * model.input_rate + searches.microdollars
    left = budget - spent * _MICROCREDITS_PER_MICRODOLLAR
    # Half a token more, to round to the nearest; the price itself says whether that was too many.
    tokens = int(left / (model.output_rate * _MICROCREDITS_PER_MICRODOLLAR) + 0.5)
    tokens = max(0, min(model.max_output_tokens, tokens))
    is_paid = cost(model, input_tokens, tokens, searches) <= budget
    return tokens if is_paid else max(0, tokens - 1)
