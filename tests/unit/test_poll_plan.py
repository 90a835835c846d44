"""Plans for answers that may end at any time: none is found very late, within the allowed polls."""

import itertools
import math

import pytest
from hypothesis import given, strategies as st

from api.polling import eta, poll_plan
from api.polling.eta import HINT_SECONDS_MAX, KnownDurations

_SETTLING_SECONDS = 0.02


def _allowed(seconds: float) -> float:
    return max(4 + math.log2(max(1.0, seconds)), 3 + seconds / HINT_SECONDS_MAX)


def _looks(durations: list[float], polls_before: int = 0) -> list[int]:
    limits = poll_plan.PollLimits(polls_before, _allowed, HINT_SECONDS_MAX)
    return poll_plan.poll_times(sorted(durations), _SETTLING_SECONDS, limits)


def _evenly(shortest: float, times: float, count: int) -> list[float]:
    """Return this many durations, each longer than the one before by the same factor."""
    return [shortest * times ** (n / (count - 1)) for n in range(count)]


def _followed(known: KnownDurations, duration: float) -> tuple[int, float]:
    """Return how often a client that obeys the hints polls, and how late it finds the end."""
    at = polls = 0
    while at < duration + _SETTLING_SECONDS:
        at += eta.hint(known, at)
        polls += 1
    return polls, at - duration


@pytest.mark.parametrize(
    ("shortest", "times"), [(0.5, 40), (1.5, 20), (4, 8), (9, 10), (3, 12)], ids=str
)
def test_answers_that_end_at_any_time_are_found_within_half_the_time_waited(
    shortest: float, times: float
) -> None:
    known = KnownDurations.of(_evenly(shortest, times, 128))
    # An answer that ends during a poll is found by the next one.
    slack = 1.5 * _SETTLING_SECONDS
    for duration in _evenly(shortest, times, 500):
        polls, late = _followed(known, duration)
        assert late <= max(2.0, duration / 2) + slack, duration
        assert polls <= _allowed(duration), duration


@given(st.lists(st.floats(0.2, 500), min_size=1, max_size=128), st.integers(0, 6))
def test_a_plan_keeps_to_the_polls_allowed(durations: list[float], before: int) -> None:
    poll_times = _looks(durations, before)
    polls = before
    for last, look in itertools.pairwise([0, *poll_times]):
        polls += math.ceil((look - last) / HINT_SECONDS_MAX)
        assert polls <= _allowed(max(last, min(durations) * 0.8))
    if not poll_times:
        # The longest takes as many polls as the longest hints lead to.
        assert before + 1 > _allowed(min(durations) * 0.8) or max(durations) > HINT_SECONDS_MAX


def test_gaps_in_what_is_known_are_looked_into() -> None:
    poll_times = _looks([3.0] * 20 + [39.0] * 20)
    assert all(later <= max(last + 2, last * 1.5) for last, later in itertools.pairwise(poll_times))


def test_where_polls_are_short_the_looks_are_further_apart() -> None:
    few, many = _looks(_evenly(2, 20, 60), 3), _looks(_evenly(2, 20, 60))
    assert 0 < len(few) < len(many)
    assert few[-1] == many[-1]
