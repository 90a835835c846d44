"""Durations are predictable exactly where some plan of polls keeps the contract for all of them."""

import pytest

from tests.bench import poll_policy


def _evenly(shortest: float, times: float, count: int = 60) -> list[float]:
    return [shortest * times ** (n / (count - 1)) for n in range(count)]


@pytest.mark.parametrize(
    "durations",
    [
        [120.0 + n / 10 for n in range(30)],
        [*[1.1] * 20, *[5.2] * 20, *[30.4] * 20, *[120.9] * 20],
        _evenly(1, 8),
    ],
    ids=["alike", "four kinds", "short"],
)
def test_durations_that_a_few_polls_find_in_time_are_predictable(durations: list[float]) -> None:
    assert poll_policy.is_predictable(durations)


@pytest.mark.parametrize("times", [10, 40])
def test_durations_that_may_end_at_any_time_are_not_predictable(times: float) -> None:
    assert not poll_policy.is_predictable(_evenly(9, times))


def test_no_plan_finds_more_than_all_answers_within_the_polls() -> None:
    durations = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5]
    # 5.5 seconds allow six polls, so a few of those at 2, 3, ... 9 are left out.
    assert 4 < poll_policy._found_in_time(durations, lambda _: 0.5) < len(durations)
    assert poll_policy._found_in_time(durations, lambda _: 2.0) == len(durations)
