"""What an answer costs, in microcredits: 1 credit = 10^6 microcredits = $0.01.

Owns the arithmetic of rates (US dollars per million tokens, and per 1,000 searches) and the
estimate of tokens. Prices are rounded up once, at the end; estimates err on the high side. Example:
2,000 tokens in at $0.25 and 500 out at $2.00 cost $0.0015 = 150,000 microcredits = 0.15 credits.

What a provider reads from a cache or writes to one has rates of its own. Before an answer nobody
knows which tokens that will be: `hold` takes the highest rate that an input token may have.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from shared.settings import ModelSettings
from shared.wire.conversation import (
    CallPart,
    Message,
    OpaquePart,
    TextPart,
    ToolDefinition,
    part_size,
    tool_size,
)
from shared.wire.message import BYTES_PER_TOKEN, TOKENS_PER_MESSAGE, Usage

# A dollar per million tokens is a microdollar per token, and a microdollar is 100 microcredits.
_MICROCREDITS_PER_MICRODOLLAR: Final = 100
_FLOAT_ERROR: Final = 0.00005
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


class PricedTokens(NamedTuple):
    """Tokens of an answer with one rate, in US dollars per million."""

    item: Literal["input", "cached_input", "cache_write", "output"]
    quantity: int
    rate: float


class ChargedTokens(NamedTuple):
    """Tokens of an answer, and what was charged for them; `tokens` are all of them."""

    item: Literal["input", "cached_input", "cache_write", "output", "reasoning", "tokens"]
    quantity: int
    microcredits: int


def tokens_in(text: str) -> int:
    """Estimate a message's tokens, high: English has about 4 bytes a token, most else about 3."""
    return len(text.encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def tokens_in_bytes(count: int) -> int:
    """Estimate the tokens of a message of so many bytes, as `tokens_in` does."""
    return count // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE


def tokens_in_parts(parts: Iterable[object]) -> int:
    """Estimate, high, the tokens of a message; parts that are no text, call or opaque are images.

    A message of one text has as many as `tokens_in` says.
    """
    count, tokens = 0, TOKENS_PER_MESSAGE
    for part in parts:
        if isinstance(part, TextPart):
            count += len(part.text.encode())
        elif isinstance(part, (CallPart, OpaquePart)):
            count += part_size(part)
            tokens += TOKENS_PER_MESSAGE if isinstance(part, CallPart) else 0
        else:
            tokens += IMAGE_TOKENS
    return count // BYTES_PER_TOKEN + tokens


def tokens_in_tools(tools: Iterable[ToolDefinition]) -> int:
    """Estimate, high, the tokens of the definitions of tools."""
    return sum(tokens_in_bytes(tool_size(tool)) for tool in tools)


def tokens_in_conversation(messages: Iterable[Message], tools: Iterable[ToolDefinition]) -> int:
    """Estimate, high, the tokens of an explicit conversation and its tools."""
    return sum(tokens_in_parts(message.parts) for message in messages) + tokens_in_tools(tools)


def history_max(model: ModelSettings, tokens: int, taken: int) -> int:
    """Return how many tokens of a history fit the window beside those taken."""
    return max(0, min(tokens, model.context_window - taken))


def cost(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: Searches = NO_SEARCH
) -> int:
    """Return the price in microcredits, rounded up; no token is cached."""
    microdollars = input_tokens * model.input_rate + output_tokens * model.output_rate
    # Part of each append of an answer, where nothing is searched as a rule.
    if searches is not NO_SEARCH:
        microdollars += searches.microdollars
    return _rounded_up(microdollars)


def priced_tokens(model: ModelSettings, usage: Usage) -> tuple[PricedTokens, ...]:
    """Return an answer's tokens by their rate; each token counts once."""
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    cached_rate, write_rate = model.cached_input_rate, model.cache_write_rate
    return (
        PricedTokens("input", usage.input_tokens - cached - written, model.input_rate),
        PricedTokens(
            "cached_input", cached, model.input_rate if cached_rate is None else cached_rate
        ),
        PricedTokens(
            "cache_write", written, model.input_rate if write_rate is None else write_rate
        ),
        PricedTokens("output", usage.output_tokens, model.output_rate),
    )


def usage_cost(model: ModelSettings, usage: Usage, searches: Searches = NO_SEARCH) -> int:
    """Return the price of what an answer used, in microcredits, rounded up."""
    microdollars = sum(tokens.quantity * tokens.rate for tokens in priced_tokens(model, usage))
    return _rounded_up(microdollars + searches.microdollars)


def charged_tokens(
    model: ModelSettings | None, usage: Usage, captured: int
) -> tuple[ChargedTokens, ...]:
    """Divide what was captured for tokens by what they cost; the parts add up to it.

    If the model's rates are not those by which the answer was charged, nothing can be divided.
    """
    of_tokens = usage.cost - usage.search_cost
    # Tokens and searches are rounded up together, so their parts may be one less than each alone.
    if model is None or not 0 <= usage_cost(model, usage) - of_tokens <= 1:
        return (ChargedTokens("tokens", usage.input_tokens + usage.output_tokens, captured),)
    *inputs, output = priced_tokens(model, usage)
    thought = min(usage.reasoning_tokens, output.quantity)
    parts = [
        *((each.item, each.quantity, each.rate) for each in inputs if each.quantity),
        ("output", output.quantity - thought, output.rate),
        *((("reasoning", thought, output.rate),) if thought else ()),
    ]
    whole = sum(count * rate for _, count, rate in parts)
    lines, below, spent = [], 0.0, 0
    for item, count, rate in parts:
        below += count * rate
        # Rounding the running sum, and not each part, makes the parts add up.
        until = round(captured * below / whole) if whole else captured
        lines.append(ChargedTokens(item, count, until - spent))
        spent = until
    return tuple(lines)


def charged_calls(
    calls: Sequence[tuple[ModelSettings | None, Usage]], captured: int
) -> tuple[ChargedTokens, ...]:
    """Divide what was captured for the tokens of several calls, each by its model's rates."""
    whole = sum(usage.cost - usage.search_cost for _, usage in calls)
    below, spent = 0, 0
    lines: dict[str, ChargedTokens] = {}
    for model, usage in calls:
        below += usage.cost - usage.search_cost
        until = round(captured * below / whole) if whole else captured
        for line in charged_tokens(model, usage, until - spent):
            before = lines.get(line.item, ChargedTokens(line.item, 0, 0))
            lines[line.item] = ChargedTokens(
                line.item,
                before.quantity + line.quantity,
                before.microcredits + line.microcredits,
            )
        spent = until
    return tuple(lines.values())


def hold(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: Searches = NO_SEARCH
) -> int:
    """Return the highest price in microcredits that so many tokens may have, rounded up."""
    microdollars = input_tokens * _input_rate_max(model) + output_tokens * model.output_rate
    if searches is not NO_SEARCH:
        microdollars += searches.microdollars
    return _rounded_up(microdollars)


def _input_rate_max(model: ModelSettings) -> float:
    """Return the highest rate of an input token: to write it to a cache may cost more."""
    written = model.cache_write_rate
    return model.input_rate if written is None else max(model.input_rate, written)


def search_cost(searches: Searches) -> int:
    """Return the searches' part of a price in microcredits, rounded up by itself."""
    return _rounded_up(searches.microdollars)


def _rounded_up(microdollars: float) -> int:
    # Floats make 570 * 74.355 slightly too large: a microcredit counts only where more than this
    # part of it is due. `round` to 4 digits would do the same in ten times as long.
    return math.ceil(microdollars * _MICROCREDITS_PER_MICRODOLLAR - _FLOAT_ERROR)


def input_price(model: ModelSettings) -> float:
    """Return the highest price of an input token in microcredits, not rounded."""
    return _input_rate_max(model) * _MICROCREDITS_PER_MICRODOLLAR


def tokens_of_answer(output_tokens: int) -> int:
    """Estimate the input tokens of an answer that is sent again: six bytes an output token."""
    return tokens_in_bytes(6 * output_tokens)


def affordable_tokens(
    model: ModelSettings, input_tokens: int, budget: int, searches: Searches = NO_SEARCH
) -> int:
    """Return how many output tokens a budget in microcredits pays for, within the model's limit."""
    if hold(model, input_tokens, 0, searches) > budget:
        return 0
    if model.output_rate == 0:
        return model.max_output_tokens
    spent = input_tokens * _input_rate_max(model) + searches.microdollars
    left = budget - spent * _MICROCREDITS_PER_MICRODOLLAR
    # Round to the nearest token; the price then decides whether that is one too many.
    tokens = int(left / (model.output_rate * _MICROCREDITS_PER_MICRODOLLAR) + 0.5)
    tokens = max(0, min(model.max_output_tokens, tokens))
    is_paid = hold(model, input_tokens, tokens, searches) <= budget
    return tokens if is_paid else max(0, tokens - 1)
