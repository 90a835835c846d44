"""Poll hints: what they promise to a client that obeys them, whatever the durations."""

import math
from collections.abc import Iterator

from hypothesis import given, strategies as st

from api.polling import eta
from api.polling.eta import HINT_SECONDS_MAX, KnownDurations, PriorWait

_SECONDS = st.floats(0.05, 600)
_DURATIONS = st.lists(_SECONDS, min_size=1, max_size=128)


def _polls(
    known: KnownDurations, duration: float, before: PriorWait = eta.NO_PRIOR_WAIT
) -> Iterator[int]:
    """Yield when a client that obeys the hints polls, up to the poll that finds the end."""
    at = 0
    while at < duration:
        at += eta.hint(known, at, before)
        yield at


def _common(durations: list[float]) -> list[float]:
    """Return all but the longest twentieth, whose polls would delay all others."""
    return sorted(durations)[: math.ceil(0.95 * len(durations))]


@given(_DURATIONS, st.floats(0, 2_000))
def test_every_hint_is_of_whole_seconds_within_bounds(
    durations: list[float], seconds: float
) -> None:
    known = KnownDurations.of(durations)
    for hint in (eta.hint(known, seconds), eta.hint_while_waiting(known, seconds)):
        assert isinstance(hint, int)
        assert 1 <= hint <= HINT_SECONDS_MAX


@given(_DURATIONS)
def test_answers_like_those_known_keep_to_the_polls_allowed(durations: list[float]) -> None:
    known = KnownDurations.of(durations)
    for duration in _common(durations):
        polls = len(list(_polls(known, duration)))
        allowed = max(4 + math.log2(max(1.0, duration)), 3 + duration / HINT_SECONDS_MAX)
        assert polls <= allowed, duration


@given(_DURATIONS)
def test_the_few_that_take_far_longer_are_polled_ever_more_seldom(durations: list[float]) -> None:
    known, last = KnownDurations.of(durations), max(_common(durations))
    until_common = len(list(_polls(known, last)))
    for duration in set(durations) - set(_common(durations)):
        polls = len(list(_polls(known, duration)))
        # Intervals double from at least a second up to the longest hint.
        assert polls <= until_common + 6 + (duration - last) / HINT_SECONDS_MAX, duration


@given(_SECONDS)
def test_similar_answers_are_found_by_the_first_poll_after_them(seconds: float) -> None:
    known = KnownDurations.of([seconds] * 20)
    polls = list(_polls(known, seconds))
    assert polls[-1] <= math.ceil(seconds + 0.02)
    assert len(polls) <= max(1, math.ceil(seconds / HINT_SECONDS_MAX)) + 1


def test_two_kinds_are_each_found_just_behind() -> None:
    known = KnownDurations.of([2.4] * 10 + [50.4] * 10)
    assert list(_polls(known, 2.4)) == [3]
    assert list(_polls(known, 50.4))[-1] == 51


@given(_DURATIONS, st.floats(1, 10_000))
def test_what_takes_longer_than_ever_is_found_in_the_end(
    durations: list[float], more: float
) -> None:
    polls = list(_polls(KnownDurations.of(durations), max(durations) + more))
    assert polls[-1] - (max(durations) + more) <= HINT_SECONDS_MAX


@given(_DURATIONS, st.floats(0, 20), st.floats(0, 20))
def test_who_waits_longer_for_a_turn_is_never_told_to_look_earlier(
    durations: list[float], wait: float, more: float
) -> None:
    known = KnownDurations.of(durations)
    assert eta.hint_while_waiting(known, wait) <= eta.hint_while_waiting(known, wait + more)


@given(_DURATIONS, st.floats(0, 700))
def test_the_estimate_is_of_what_is_left(durations: list[float], elapsed: float) -> None:
    estimate = eta.estimate(KnownDurations.of(durations), elapsed, 0.0)
    if elapsed >= max(durations):
        # Beyond all known durations there is no ETA.
        assert estimate is None
    else:
        assert estimate is not None
        assert 0 < estimate.p50 <= estimate.p90 <= max(durations) - elapsed


@given(_DURATIONS, st.floats(1, 100), st.integers(1, 6))
def test_what_has_waited_keeps_to_the_polls_that_are_left(
    durations: list[float], waited: float, polls: int
) -> None:
    before = PriorWait.of(waited, polls)
    known = KnownDurations.of(durations)
    for duration in _common(durations):
        made = polls + len(list(_polls(known, duration, before)))
        whole = waited + duration
        # One poll is planned whatever came before.
        allowed = max(4 + math.log2(max(1.0, whole)), 3 + whole / HINT_SECONDS_MAX)
        least = polls + math.ceil((max(durations) + 1) / HINT_SECONDS_MAX)
        assert made <= max(allowed, least), duration


def test_an_outlier_takes_no_polls_from_the_others() -> None:
    usual = [4.0 + n % 8 for n in range(63)]
    alone, beside = KnownDurations.of(usual), KnownDurations.of([*usual, 300.0])
    assert beside.poll_times()[:6] == alone.poll_times()[:6]


def test_few_measured_answers_are_taken_to_differ_more_than_they_did() -> None:
    assert max(eta.widen([5.0])) > 10
    assert min(eta.widen([5.0])) < 2
    few, many = eta.widen([5.0] * 4), eta.widen([5.0] * 16)
    assert 5 < max(few) < max(eta.widen([5.0]))
    assert many == [5.0] * 16
