"""Poll hints: what a client that obeys them is promised, whatever the durations."""

import math
from collections.abc import Iterator

from hypothesis import given, strategies as st

from api import pace
from api.pace import HINT_SECONDS_MAX, Known
from shared.stores.fleet import Fleet

_SECONDS = st.floats(0.05, 600)
_DURATIONS = st.lists(_SECONDS, min_size=1, max_size=128)


def _polls(known: Known, duration: float) -> Iterator[int]:
    """Yield when a client that obeys the hints looks, up to the look that finds the end."""
    at = 0
    while at < duration:
        at += pace.hint(known, at, 0.0)
        yield at


@given(_DURATIONS, st.floats(0, 2_000), st.floats(0, 2_000))
def test_every_hint_is_of_whole_seconds_within_bounds(
    durations: list[float], elapsed: float, wait: float
) -> None:
    hint = pace.hint(Known.of(durations), elapsed, wait)
    assert isinstance(hint, int)
    assert 1 <= hint <= HINT_SECONDS_MAX


@given(_DURATIONS)
def test_answers_like_those_known_keep_to_the_polls_allowed(durations: list[float]) -> None:
    known = Known.of(durations)
    for duration in durations:
        polls = len(list(_polls(known, duration)))
        allowed = max(4 + math.log2(max(1.0, duration)), 3 + duration / HINT_SECONDS_MAX)
        assert polls <= allowed, duration


@given(_SECONDS)
def test_what_always_takes_alike_is_found_by_the_first_look_behind_it(seconds: float) -> None:
    known = Known.of([seconds] * 20)
    polls = list(_polls(known, seconds))
    assert polls[-1] <= math.ceil(seconds + 0.02)
    assert len(polls) <= max(1, math.ceil(seconds / HINT_SECONDS_MAX)) + 1


def test_two_kinds_are_each_found_just_behind() -> None:
    known = Known.of([2.4] * 10 + [50.4] * 10)
    assert list(_polls(known, 2.4)) == [3]
    assert list(_polls(known, 50.4))[-1] == 51


@given(_DURATIONS, st.floats(1, 10_000))
def test_what_takes_longer_than_ever_is_found_in_the_end(
    durations: list[float], more: float
) -> None:
    polls = list(_polls(Known.of(durations), max(durations) + more))
    assert polls[-1] - (max(durations) + more) <= HINT_SECONDS_MAX


@given(_DURATIONS, st.floats(0, 20), st.floats(0, 20))
def test_who_waits_longer_for_a_turn_is_never_told_to_look_earlier(
    durations: list[float], wait: float, more: float
) -> None:
    known = Known.of(durations)
    assert pace.hint(known, 0.0, wait) <= pace.hint(known, 0.0, wait + more)


@given(_DURATIONS, st.floats(0, 700))
def test_the_estimate_is_of_what_is_left(durations: list[float], elapsed: float) -> None:
    known = Known.of(durations)
    eta = pace.eta(known, elapsed, 0.0)
    assert 0 < eta.p50 <= eta.p90
    longest = max(durations)
    assert eta.p90 <= (longest - elapsed if longest > elapsed else 1.0)


def test_the_wait_for_a_turn_goes_by_rounds_of_the_fleets_room() -> None:
    known = Known.of([4.0] * 9)
    fleet = Fleet(workers=2, slots=10)

    def wait(ahead: int | None, crowd: int, fleet: Fleet = fleet) -> float:
        return pace.wait_seconds(pace.Line(ahead, crowd), known, fleet)

    assert wait(None, 1) == 0
    assert [wait(ahead, 1) for ahead in (0, 9, 10, 25)] == [0, 0, 4, 8]
    assert [wait(ahead, 5) for ahead in (0, 1, 2, 9)] == [0, 0, 4, 16]
    assert wait(3, 0, Fleet()) == 12
    # Where more accounts wait than there are slots, a round of all of them takes longer.
    assert wait(3, 100) == 120


def test_the_wait_goes_by_what_may_run_and_by_the_turns_of_its_session() -> None:
    known = Known.of([4.0] * 9)
    fleet = Fleet(workers=2, slots=10)
    assert pace.wait_seconds(pace.Line(8, crowd=1, most=2), known, fleet) == 16
    assert pace.wait_seconds(pace.Line(8, crowd=1, most=100), known, fleet) == 0
    assert pace.wait_seconds(pace.Line(8, crowd=1, most=100, behind=5), known, fleet) == 20
