"""Durations tell the end exactly where some plan of looks holds the contract for all of them."""

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
def test_what_a_few_looks_find_in_time_is_foreseeable(durations: list[float]) -> None:
    assert poll_policy.is_predictable(durations)


@pytest.mark.parametrize("times", [10, 40])
def test_what_may_end_at_any_time_is_not(times: float) -> None:
    assert not poll_policy.is_predictable(_evenly(9, times))


def test_no_plan_finds_more_than_all_and_each_look_costs_a_poll() -> None:
    durations = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5]
    # 5.5 seconds allow six polls, so of the looks at 2, 3, ... 9 a few are left out.
    assert 4 < poll_policy._found_in_time(durations, lambda _: 0.5) < len(durations)
    assert poll_policy._found_in_time(durations, lambda _: 2.0) == len(durations)
