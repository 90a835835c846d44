"""What answers cost: the arithmetic of holds and captures, against exact fractions."""

from fractions import Fraction
from math import ceil

from hypothesis import assume, example, given, strategies as st

from shared.routing import price
from shared.settings import ModelSettings

_TOKENS = st.integers(0, 2_000_000)
# Rates as catalogues have them: dollars per million tokens, to a tenth of a cent.
_RATES = st.integers(0, 200_000).map(lambda mills: mills / 1000)
_BUDGETS = st.integers(0, 10**12)


def _model(input_rate: float, output_rate: float, max_output_tokens: int = 4096) -> ModelSettings:
    return ModelSettings(
        identifier="m",
        provider="p",
        upstream="m",
        input_rate=input_rate,
        output_rate=output_rate,
        max_output_tokens=max_output_tokens,
    )


_MODELS = st.builds(_model, _RATES, _RATES, st.integers(1, 200_000))


# Searches of an answer, at a rate of dollars per thousand.
_SEARCHES = st.builds(price.Searches, st.integers(0, 1_000), _RATES)


def _exact(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: price.Searches
) -> int:
    input_rate, output_rate = Fraction(str(model.input_rate)), Fraction(str(model.output_rate))
    of_searches = searches.count * Fraction(str(searches.rate)) * 1_000
    return ceil((input_tokens * input_rate + output_tokens * output_rate + of_searches) * 100)


@given(_MODELS, _TOKENS, _TOKENS, _SEARCHES)
@example(_model(0.1, 0.1), 3, 0, price.NO_SEARCH)
@example(_model(0.1, 0.1), 3_000_000, 0, price.NO_SEARCH)
@example(_model(74.355, 0), 570, 0, price.NO_SEARCH)
@example(_model(0.001, 0.001), 1, 1, price.Searches(3, 0.001))
def test_cost_is_exact_and_rounded_up_once(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: price.Searches
) -> None:
    assert price.cost(model, input_tokens, output_tokens, searches) == _exact(
        model, input_tokens, output_tokens, searches
    )


@given(_MODELS, _TOKENS, _TOKENS, _SEARCHES)
def test_the_searches_part_and_the_tokens_part_make_the_cost(
    model: ModelSettings, input_tokens: int, output_tokens: int, searches: price.Searches
) -> None:
    whole = price.cost(model, input_tokens, output_tokens, searches)
    of_tokens = whole - price.search_cost(searches)
    assert price.cost(model, input_tokens, output_tokens) - 1 <= of_tokens
    assert 0 <= of_tokens <= price.cost(model, input_tokens, output_tokens)


@given(_MODELS, _TOKENS, _TOKENS, _TOKENS, _TOKENS)
def test_more_tokens_never_cost_less(
    model: ModelSettings, asked: int, more_asked: int, answered: int, more_answered: int
) -> None:
    less = price.cost(model, asked, answered)
    assert less <= price.cost(model, asked + more_asked, answered + more_answered)


@given(_MODELS, _TOKENS, _BUDGETS, _SEARCHES)
def test_affordable_tokens_are_paid_for_by_the_budget(
    model: ModelSettings, input_tokens: int, budget: int, searches: price.Searches
) -> None:
    assume(price.cost(model, input_tokens, 0, searches) <= budget)
    tokens = price.affordable_tokens(model, input_tokens, budget, searches)
    assert 0 <= tokens <= model.max_output_tokens
    assert price.cost(model, input_tokens, tokens, searches) <= budget
    if tokens < model.max_output_tokens:
        assert price.cost(model, input_tokens, tokens + 1, searches) > budget


@given(_MODELS, _TOKENS, _SEARCHES)
def test_hold_for_the_longest_answer_affords_the_longest_answer(
    model: ModelSettings, input_tokens: int, searches: price.Searches
) -> None:
    hold = price.cost(model, input_tokens, model.max_output_tokens, searches)
    affordable = price.affordable_tokens(model, input_tokens, hold, searches)
    assert affordable == model.max_output_tokens


@given(_MODELS, _TOKENS, _BUDGETS, _SEARCHES)
def test_budget_that_does_not_pay_for_question_and_search_affords_nothing(
    model: ModelSettings, input_tokens: int, budget: int, searches: price.Searches
) -> None:
    assume(price.cost(model, input_tokens, 0, searches) > budget)
    assert price.affordable_tokens(model, input_tokens, budget, searches) == 0


@given(st.text(), st.text())
def test_estimates_are_high_and_grow_with_the_text(text: str, more: str) -> None:
    tokens = price.tokens_in(text)
    assert tokens > len(text.encode()) / 3
    assert price.tokens_in(text + more) >= tokens
