"""The charge that each append carries: computed without a record of usage, and equal to it."""

from types import SimpleNamespace
from typing import Any, Final

import pytest

from shared.routing.search_estimate import SearchProvider
from shared.settings import ModelSettings
from shared.wire.message import CallCost, Media
from worker.receive_answer import estimate_usage
from worker.run import Run
from worker.steps.charge import encode_bill, encode_charge
from worker.steps.search_web import add_search_cost

_MODEL: Final = ModelSettings(
    identifier="alpha",
    provider="p",
    upstream="m",
    input_rate=0.37,
    output_rate=74.355,
    search_rate=10.001,
)
_MEDIA: Final = Media("image", "/media/a.png")


def _run(text: int, reasoning: int) -> Run:
    """Return an attempt whose writer has shown so many tokens."""
    writer: Any = SimpleNamespace(tokens=lambda: (text, reasoning), has_shown=lambda: True)
    claimed: Any = SimpleNamespace(attempt=3)
    nothing: Any = None
    return Run(
        dependencies=nothing,
        claimed=claimed,
        writer=writer,
        claimed_at=0.0,
        model=_MODEL,
        input_tokens=571,
    )


@pytest.mark.parametrize(("searched_by", "searches"), [(None, 0), ("model", 0), ("model", 3)])
@pytest.mark.parametrize(("text", "reasoning"), [(1, 0), (0, 7), (1_234, 56_789)])
@pytest.mark.parametrize("images", [0, 2])
def test_charge_of_an_append_is_that_of_the_estimated_usage(
    searched_by: SearchProvider | None, searches: int, text: int, reasoning: int, images: int
) -> None:
    run = _run(text, reasoning)
    run.searched_by, run.searches, run.media = searched_by, searches, [_MEDIA] * images
    used = add_search_cost(run, _MODEL, estimate_usage(run, _MODEL))
    assert encode_charge(run) == encode_bill(run, [CallCost(_MODEL.identifier, used)])
