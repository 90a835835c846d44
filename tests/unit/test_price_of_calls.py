"""The charge of an answer of several calls, divided by what the tokens of each cost."""

import msgspec

from shared.routing import price
from shared.settings import ModelSettings
from shared.wire.message import CallCost, Usage, total_usage

_CHEAP = ModelSettings(
    identifier="cheap",
    provider="scripted",
    upstream="cheap",
    context_window=4096,
    max_output_tokens=256,
    input_rate=1.0,
    output_rate=2.0,
)
_DEAR = msgspec.structs.replace(_CHEAP, identifier="dear", input_rate=10.0, output_rate=40.0)


def _call(model: ModelSettings, input_tokens: int, output_tokens: int) -> CallCost:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    cost = price.usage_cost(model, usage)
    return CallCost(model.identifier, msgspec.structs.replace(usage, cost=cost))


def test_usage_of_calls_adds_up() -> None:
    calls = [_call(_CHEAP, 100, 10), _call(_DEAR, 200, 20)]
    estimated = msgspec.structs.replace(calls[1].usage, estimated=True)
    assert total_usage(calls[:1]) is calls[0].usage
    assert total_usage([calls[0], CallCost("dear", estimated)]) == Usage(
        input_tokens=300, output_tokens=30, cost=12_000 + 280_000, estimated=True
    )
    assert total_usage(()) == Usage()


def test_each_call_is_divided_by_the_rates_of_its_model() -> None:
    calls = [(_CHEAP, _call(_CHEAP, 100, 10).usage), (_DEAR, _call(_DEAR, 200, 20).usage)]
    assert price.charged_calls(calls, 292_000) == (
        price.ChargedTokens("input", 300, 10_000 + 200_000),
        price.ChargedTokens("output", 30, 2_000 + 80_000),
    )


def test_less_than_the_cost_is_divided_without_a_rest() -> None:
    calls = [(_CHEAP, _call(_CHEAP, 101, 13).usage), (_DEAR, _call(_DEAR, 207, 29).usage)]
    for captured in (0, 1, 7, 100_001):
        lines = price.charged_calls(calls, captured)
        assert sum(line.microcredits for line in lines) == captured


def test_call_of_a_model_that_the_catalogue_lacks_is_not_divided() -> None:
    calls = [(_CHEAP, _call(_CHEAP, 100, 10).usage), (None, _call(_DEAR, 200, 20).usage)]
    assert price.charged_calls(calls, 292_000)[-1] == price.ChargedTokens("tokens", 220, 280_000)
