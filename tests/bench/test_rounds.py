"""Rounds that disagree about a verdict are not the last ones."""

import itertools
from collections.abc import Iterable

from tests.bench import figures

_AIM = 10.0


async def _taken(values: Iterable[float], count: int) -> list[float]:
    left = iter(values)

    async def take() -> float:
        return next(left)

    return await figures.rounds(count, take, lambda value: [value <= _AIM])


async def test_rounds_that_agree_are_enough() -> None:
    assert await _taken([1.0, 9.0, 3.0], 3) == [1.0, 9.0, 3.0]


async def test_rounds_go_on_to_seven_where_a_verdict_flips() -> None:
    found = await _taken(itertools.chain([11.0], itertools.repeat(9.0)), 3)
    assert found == [11.0, *[9.0] * 6]
    assert figures.median(found) <= _AIM


async def test_one_round_is_no_doubt() -> None:
    assert await _taken([11.0], 1) == [11.0]
