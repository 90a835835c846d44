"""Which model answers: gates, the catalogue's order, and every candidate's bar told."""

from hypothesis import given, strategies as st

from shared.routing import price
from shared.routing.choose import Question, choose
from shared.settings import ModelSettings
from shared.wire.submission import AUTO

_IDENTIFIERS = ("a", "b", "c", "d")
_MODEL = st.builds(
    lambda window, output, rate: (window, min(output, window - 1), rate),
    st.integers(256, 2000),
    st.integers(1, 600),
    st.sampled_from([0.0, 0.5, 20.0]),
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
        )
        for name, (window, output, rate) in zip(_IDENTIFIERS, models, strict=False)
    )
)
_QUESTIONS = st.builds(
    Question,
    model=st.sampled_from([AUTO, *_IDENTIFIERS]),
    input_tokens=st.integers(0, 2500),
    budget=st.none() | st.integers(0, 200_000),
    served=st.none() | st.frozensets(st.sampled_from(_IDENTIFIERS)),
    cooling=st.frozensets(st.sampled_from(_IDENTIFIERS)),
)


def _is_open(model: ModelSettings, question: Question) -> bool:
    """Tell, in other words than the product's, whether a model could answer."""
    if question.input_tokens > model.context_window - 16:
        return False
    if model.identifier in question.cooling:
        return False
    if question.served is not None and model.identifier not in question.served:
        return False
    worth = min(16, model.max_output_tokens)
    return question.budget is None or (
        price.cost(model, question.input_tokens, worth) <= question.budget
    )


@given(_CATALOGUES, _QUESTIONS)
def test_first_open_model_of_those_asked_for_answers(
    models: tuple[ModelSettings, ...], question: Question
) -> None:
    routing, open_ = choose(models, question)
    model = open_[0] if open_ else None
    asked = [each for each in models if question.model in {AUTO, each.identifier}]
    expected = next((each for each in asked if _is_open(each, question)), None)
    assert model is expected
    assert routing.chosen == (expected.identifier if expected else None)
    assert routing.policy == ("catalogue_order" if question.model == AUTO else "requested")


@given(_CATALOGUES, _QUESTIONS)
def test_every_candidate_is_told_with_what_shut_it_out(
    models: tuple[ModelSettings, ...], question: Question
) -> None:
    routing, _ = choose(models, question)
    asked = [each for each in models if question.model in {AUTO, each.identifier}]
    assert [candidate.model for candidate in routing.candidates] == [
        each.identifier for each in asked
    ]
    for each, candidate in zip(asked, routing.candidates, strict=True):
        assert (candidate.excluded_by is None) == _is_open(each, question)
        assert candidate.excluded_by in {
            None,
            "context_window",
            "max_credits",
            "unavailable",
            "cooling",
        }
        assert candidate.est_credits >= 0


@given(_CATALOGUES, _QUESTIONS)
def test_same_question_gets_the_same_answer(
    models: tuple[ModelSettings, ...], question: Question
) -> None:
    assert choose(models, question) == choose(models, question)
