"""What cached tokens cost: each at its own rate, rounded up once, and covered by the hold."""

from fractions import Fraction
from math import ceil

import msgspec
from hypothesis import example, given, strategies as st

from shared.routing import price
from shared.settings import ModelSettings
from shared.wire.message import Usage

_TOKENS = st.integers(0, 2_000_000)
_RATES = st.integers(0, 200_000).map(lambda mills: mills / 1000)
_SHARES = st.none() | st.integers(0, 1000).map(lambda mills: mills / 1000)


def _model(
    input_rate: float, output_rate: float, read: float | None, written: float | None
) -> ModelSettings:
    """Return a model; its rates for cached tokens are shares of the input rate and twice it."""
    return ModelSettings(
        identifier="m",
        provider="p",
        upstream="m",
        input_rate=input_rate,
        output_rate=output_rate,
        cached_input_rate=None if read is None else round(input_rate * read, 3),
        cache_write_rate=None if written is None else round(2 * input_rate * written, 3),
    )


def _usage(new: int, cached: int, written: int, output: int, reasoning: int) -> Usage:
    return Usage(
        input_tokens=new + cached + written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )


_MODELS = st.builds(_model, _RATES, _RATES, _SHARES, _SHARES)
_USAGES = st.builds(_usage, _TOKENS, _TOKENS, _TOKENS, _TOKENS, _TOKENS)
_SONNET = _model(2.0, 10.0, 0.05, 0.625)


def _exact(model: ModelSettings, usage: Usage) -> Fraction:
    def rate(own: float | None) -> Fraction:
        return Fraction(str(model.input_rate if own is None else own))

    new = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    return 100 * (
        new * rate(None)
        + usage.cached_input_tokens * rate(model.cached_input_rate)
        + usage.cache_write_tokens * rate(model.cache_write_rate)
        + usage.output_tokens * Fraction(str(model.output_rate))
    )


@given(_MODELS, _USAGES)
@example(_SONNET, _usage(1_000, 99_000, 0, 500, 0))
@example(_SONNET, _usage(1, 1, 1, 1, 1))
def test_every_token_is_charged_at_its_own_rate_and_rounded_up_once(
    model: ModelSettings, usage: Usage
) -> None:
    assert price.usage_cost(model, usage) == ceil(_exact(model, usage))


@given(_MODELS, _TOKENS, _TOKENS)
def test_an_answer_without_cached_tokens_costs_what_it_always_did(
    model: ModelSettings, asked: int, answered: int
) -> None:
    used = Usage(input_tokens=asked, output_tokens=answered)
    assert price.usage_cost(model, used) == price.cost(model, asked, answered)


@given(_MODELS, _USAGES)
@example(_SONNET, _usage(0, 0, 100_000, 0, 0))
def test_the_hold_covers_the_answer_whatever_is_cached(model: ModelSettings, usage: Usage) -> None:
    held = price.hold(model, usage.input_tokens, usage.output_tokens)
    assert price.usage_cost(model, usage) <= held
    assert price.cost(model, usage.input_tokens, usage.output_tokens) <= held
    by_token = Fraction(price.input_price(model)) * usage.input_tokens
    assert by_token <= held + 1


@given(_MODELS, _USAGES, st.integers(0, 3), st.fractions(0, 1))
@example(_SONNET, _usage(1_000, 99_000, 0, 500, 20), 0, Fraction(1))
def test_the_lines_of_a_charge_add_up_to_it(
    model: ModelSettings, usage: Usage, searches: int, paid: Fraction
) -> None:
    sought = price.Searches(searches, 0.0007)
    searched = price.search_cost(sought)
    cost = price.usage_cost(model, usage, sought)
    usage = msgspec.structs.replace(usage, cost=cost, search_cost=searched)
    captured = int((cost - searched) * paid)
    lines = price.charged_tokens(model, usage, captured)
    assert sum(line.microcredits for line in lines) == captured
    assert min(line.microcredits for line in lines) >= 0
    assert sum(line.quantity for line in lines) == usage.input_tokens + usage.output_tokens
    assert "tokens" not in {line.item for line in lines}
    if paid == 1:
        for line, exact in _exact_lines(model, usage, lines):
            assert abs(line - exact) <= 2


def _exact_lines(
    model: ModelSettings, usage: Usage, lines: tuple[price.ChargedTokens, ...]
) -> list[tuple[int, Fraction]]:
    """Return what each line charges, beside what it costs at the model's rates."""
    priced = price.priced_tokens(model, usage)
    rates = {str(each.item): Fraction(str(each.rate)) for each in priced}
    rates["reasoning"] = rates["output"]
    return [(line.microcredits, 100 * line.quantity * rates[line.item]) for line in lines]


def test_a_long_conversation_of_which_nearly_all_was_cached_has_a_line_for_each_rate() -> None:
    usage = _usage(1_000, 99_000, 0, 500, 100)
    cost = price.usage_cost(_SONNET, usage)
    assert cost == 200_000 + 990_000 + 500_000
    usage = msgspec.structs.replace(usage, cost=cost)
    assert price.charged_tokens(_SONNET, usage, cost) == (
        ("input", 1_000, 200_000),
        ("cached_input", 99_000, 990_000),
        ("output", 400, 400_000),
        ("reasoning", 100, 100_000),
    )


def test_a_charge_by_other_rates_is_not_divided() -> None:
    usage = msgspec.structs.replace(_usage(1_000, 0, 0, 500, 0), cost=900_000)
    assert price.charged_tokens(_SONNET, usage, 900_000) == (("tokens", 1_500, 900_000),)
    assert price.charged_tokens(None, usage, 900_000) == (("tokens", 1_500, 900_000),)
