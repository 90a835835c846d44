"""Which model answers: the first in catalogue order that nothing excludes; why others do not."""

from hypothesis import given, strategies as st

from shared.routing import price
from shared.routing.choose import RoutingQuery, choose, first_eligible
from shared.routing.needs import needs
from shared.search_settings import SearchSettings
from shared.settings import ModelSettings
from shared.wire.submission import AUTO, Features, Submission

_BARS = {"cooling", None, "web_search", "context_window", "max_credits", "unavailable"}
_IDENTIFIERS = ("a", "b", "c", "d")
_MODEL = st.builds(
    lambda window, output, rate, can: (window, min(output, window - 1), rate, can),
    st.integers(256, 2000),
    st.integers(1, 600),
    st.sampled_from([0.0, 0.5, 20.0]),
    st.booleans(),
)
_CATALOGUES = st.lists(_MODEL, min_size=1, max_size=4).map(
    lambda models: tuple(
        ModelSettings(
            identifier=name,
            provider="p",
            upstream=name,
            context_window=window,
            max_output_tokens=output,
            output_rate=rate,
            capabilities=("web_search",) if can else (),
            search_rate=1.5,
        )
        for name, (window, output, rate, can) in zip(_IDENTIFIERS, models, strict=False)
    )
)
_SERVICE = SearchSettings(service="brave", api_key_env="K", results_max=2, rate=0.5)
_SEARCHES = st.sampled_from([None, SearchSettings(), _SERVICE])


def _asked(*, web_search: bool) -> Submission:
    return Submission(session="s", features=Features(web_search=web_search))


_QUESTIONS = st.builds(
    lambda search, **asked: RoutingQuery(
        needs=needs(_asked(web_search=search is not None), search or _SERVICE),
        search=search,
        **asked,
    ),
    search=_SEARCHES,
    model=st.sampled_from([AUTO, *_IDENTIFIERS]),
    input_tokens=st.integers(0, 2500),
    budget=st.none() | st.integers(0, 200_000),
    served=st.none() | st.frozensets(st.sampled_from(_IDENTIFIERS)),
    cooling=st.frozensets(st.sampled_from(_IDENTIFIERS)),
)


def _is_open(model: ModelSettings, question: RoutingQuery) -> bool:
    """Return whether a model could answer, computed apart from the product's code."""
    is_asked, can = question.search is not None, "web_search" in model.capabilities
    if is_asked and not can and question.search != _SERVICE:
        return False
    # Two results of 300 tokens each, and the text around them.
    tokens = question.input_tokens + (850 if is_asked and not can else 0)
    if tokens > model.context_window - 16:
        return False
    if model.identifier in question.cooling:
        return False
    if question.served is not None and model.identifier not in question.served:
        return False
    worth = min(16, model.max_output_tokens)
    searches = price.Searches(3, 1.5) if can else price.Searches(1, 0.5)
    cost = price.cost(model, tokens, worth, searches if is_asked else price.NO_SEARCH)
    return question.budget is None or cost <= question.budget


@given(_CATALOGUES, _QUESTIONS)
def test_first_open_model_of_those_asked_for_answers(
    models: tuple[ModelSettings, ...], question: RoutingQuery
) -> None:
    routing, open_ = choose(models, question)
    model = open_[0] if open_ else None
    asked = [each for each in models if question.model in {AUTO, each.identifier}]
    expected = next((each for each in asked if _is_open(each, question)), None)
    assert model is expected
    assert routing.chosen == (expected.identifier if expected else None)
    assert routing.policy == ("catalogue_order" if question.model == AUTO else "requested")


@given(_CATALOGUES, _QUESTIONS)
def test_every_candidate_is_listed_with_what_excluded_it(
    models: tuple[ModelSettings, ...], question: RoutingQuery
) -> None:
    routing, _ = choose(models, question)
    asked = [each for each in models if question.model in {AUTO, each.identifier}]
    assert [candidate.model for candidate in routing.candidates] == [
        each.identifier for each in asked
    ]
    for each, candidate in zip(asked, routing.candidates, strict=True):
        assert (candidate.excluded_by is None) == _is_open(each, question)
        assert candidate.excluded_by in _BARS
        assert candidate.est_credits >= 0


@given(_CATALOGUES, _QUESTIONS)
def test_open_models_stand_in_catalogue_order_for_failover(
    models: tuple[ModelSettings, ...], question: RoutingQuery
) -> None:
    open_ = [
        each
        for each in models
        if question.model in {AUTO, each.identifier} and _is_open(each, question)
    ]
    assert list(choose(models, question).models) == open_
    assert first_eligible(models, question) is (open_[0] if open_ else None)
