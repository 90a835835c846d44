"""What an answer costs, in microcredits: 1 credit = 10^6 microcredits = $0.01.

Owns the arithmetic of rates (US dollars per million tokens) and the estimate of tokens. Rounded up
once, at the end; estimates err on the high side.
"""

import math
from typing import Final

from shared.settings import ModelSettings

# A dollar a million tokens is a microdollar a token, and a microdollar is a hundred microcredits.
_MICROCREDITS_PER_MICRODOLLAR: Final = 100
_BYTES_PER_TOKEN: Final = 3
_TOKENS_PER_MESSAGE: Final = 8
# More than a picture of any size takes with the models that see, but for some that count otherwise.
IMAGE_TOKENS: Final = 1_600


def tokens_in(text: str) -> int:
    """Estimate a message's tokens, high: one holds four bytes of English, three of most else."""
    return len(text.encode()) // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE


def cost(model: ModelSettings, input_tokens: int, output_tokens: int) -> int:
    """Return the price of a use in microcredits, rounded up."""
    microdollars = input_tokens * model.input_rate + output_tokens * model.output_rate
    # Rounding first to a ten-thousandth keeps 570 tokens at 74.355, which floats make a hair too
    # much, from costing one microcredit more than they should.
    return math.ceil(round(microdollars * _MICROCREDITS_PER_MICRODOLLAR, 4))


def affordable_tokens(model: ModelSettings, input_tokens: int, budget: int) -> int:
    """Return how many output tokens a budget of microcredits pays for, within the model's limit."""
    if cost(model, input_tokens, 0) > budget:
        return 0
    if model.output_rate == 0:
        return model.max_output_tokens
    left = budget - input_tokens * model.input_rate * _MICROCREDITS_PER_MICRODOLLAR
    # Half a token more, to round to the nearest; the price itself says whether that was too many.
    tokens = int(left / (model.output_rate * _MICROCREDITS_PER_MICRODOLLAR) + 0.5)
    tokens = max(0, min(model.max_output_tokens, tokens))
    return tokens if cost(model, input_tokens, tokens) <= budget else max(0, tokens - 1)
