"""Where rounds disagree about a verdict, more rounds are taken."""

import itertools
from collections.abc import Iterable

import pytest

from tests.bench import backlog, cancel, conversations, fairness, figures, pickup

_BOUND = 10.0


async def _taken(values: Iterable[float], count: int) -> list[float]:
    left = iter(values)

    async def take() -> float:
        return next(left)

    return await figures.rounds(count, take, lambda value: [value <= _BOUND])


async def test_rounds_that_agree_are_enough() -> None:
    assert await _taken([1.0, 9.0, 3.0], 3) == [1.0, 9.0, 3.0]


async def test_rounds_go_on_to_seven_where_a_verdict_flips() -> None:
    found = await _taken(itertools.chain([11.0], itertools.repeat(9.0)), 3)
    assert found == [11.0, *[9.0] * 6]
    assert figures.median(found) <= _BOUND


async def test_one_round_is_no_doubt() -> None:
    assert await _taken([11.0], 1) == [11.0]


async def test_no_sample_is_below_nothing() -> None:
    assert figures.sample(0.0, "nothing") == 0.0
    with pytest.raises(AssertionError, match=r"a cancel: took -1\.525"):
        figures.sample(-1.525, "a cancel")


_WELL, _ILL = [1.0] * 10, [9.0] * 10


def test_fairness_is_judged_by_the_median_of_its_runs() -> None:
    turns = [fairness.Turn(_WELL, crowded) for crowded in (_ILL, _WELL, _WELL)]
    assert [fairness.verdicts(turn, [(0.99, 2.0)]) for turn in turns] == [[False], [True], [True]]
    judged = fairness.figure("p99", turns, 0.99, 2.0)
    assert judged.is_met
    assert judged.found.startswith("1.00 times")
    assert not fairness.figure("p99", [*turns, *turns[:1] * 2], 0.99, 2.0).is_met


def test_a_backlog_is_judged_by_the_median_of_its_runs() -> None:
    turns: list[backlog.Run] = [{"claim": (_WELL, many)} for many in (_ILL, _WELL, _WELL)]
    assert [backlog.verdicts(run) for run in turns] == [[False], [True], [True]]
    assert backlog.figure("claim", turns, 1, 2).is_met
    assert not backlog.figure("claim", [*turns, *turns[:1] * 2], 1, 2).is_met


def test_cancels_are_judged_by_the_median_of_their_worst() -> None:
    turns = [[0.01, 0.9], [0.01, 0.02], [0.01, 0.03]]
    assert [cancel.verdicts({"any": run}) for run in turns] == [[False], [True], [True]]
    judged = cancel.figure("any", turns)
    assert judged.is_met
    assert "worst 30.0 ms" in judged.found
    assert "most 900.0 ms" in judged.compared_with
    assert not cancel.figure("any", [*turns, *turns[:1] * 2]).is_met


def test_a_pickup_is_told_by_the_median_of_its_runs() -> None:
    turns = [pickup.Run([ours], [0.5]) for ours in (0.9, 0.004, 0.005)]
    assert pickup.figure("p50", 0.5, turns).found == "5.0 ms, the median of 3"


def test_a_fault_of_any_run_of_conversations_is_one() -> None:
    turn = conversations.Turn("hello", {})
    held = [conversations.Conversation([[turn]], [], seconds) for seconds in (9.0, 2.0, 1.0)]
    rate, faults = conversations.summarize("any", held, ["lost"], "")
    assert (rate.found, rate.compared_with) == ("2.0 s, the median of 3", "0.5 a second")
    assert not faults.is_met
