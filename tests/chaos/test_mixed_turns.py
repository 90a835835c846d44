"""A short run: turns of every form end once, whole and paid once, while workers are killed."""

import pytest

from tests.chaos import mixed_turns

pytestmark = pytest.mark.timeout(90)


async def test_turns_of_every_form_end_once_while_workers_are_killed() -> None:
    report = await mixed_turns.run(kills=4, workers=2, clients=10, seed=1, per_second=1.0)
    assert report.faults == []
    assert set(report.turns) == set(mixed_turns.KINDS)
