"""How many calls the headers of providers leave, and how far they are believed."""

from typing import Final

import pytest

from tests.support.clocks import ManualClock
from worker.providers.rate_limit_headers import Limit, may_run_out
from worker.resilience.remaining_calls import PAUSE_SECONDS_MAX, RemainingCalls

_CIRCUIT: Final = "scripted/alpha/open"


def _answered(remaining: RemainingCalls, limit: Limit, *, live_workers: int = 1) -> bool:
    """Send a call that is answered at once; return whether what it tells proved false."""
    return remaining.note_remaining(_CIRCUIT, remaining.note_sent(_CIRCUIT), limit, live_workers)


def test_nothing_is_paused_while_calls_are_left() -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    for left in range(9, 0, -1):
        assert not _answered(remaining, Limit(10, left, 9.0))
        assert remaining.pause_seconds(_CIRCUIT) is None


def test_last_call_pauses_until_the_limit_is_whole_again_and_is_reported_once() -> None:
    clock = ManualClock(1_000.0)
    remaining = RemainingCalls(clock)
    _answered(remaining, Limit(10, 0, 9.0))
    clock.now += 2
    assert remaining.pause_seconds(_CIRCUIT) == pytest.approx(7.0)
    assert remaining.pause_seconds(_CIRCUIT) is None


def test_calls_that_left_since_are_taken_off() -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    _answered(remaining, Limit(10, 2, 9.0))
    for _ in range(2):
        assert remaining.pause_seconds(_CIRCUIT, is_calling=True) is None
        remaining.note_sent(_CIRCUIT)
    assert remaining.pause_seconds(_CIRCUIT) is None
    assert remaining.pause_seconds(_CIRCUIT, is_calling=True) == pytest.approx(9.0)


def test_two_workers_share_what_is_left_of_a_small_limit() -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    _answered(remaining, Limit(10, 3, 9.0), live_workers=2)
    assert remaining.pause_seconds(_CIRCUIT, 2, is_calling=True) is None
    remaining.note_sent(_CIRCUIT)
    assert remaining.pause_seconds(_CIRCUIT, 2, is_calling=True) == pytest.approx(9.0)


def test_other_workers_are_reckoned_with_only_where_little_is_left() -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    _answered(remaining, Limit(1_000, 500, 60.0))
    for _ in range(20):
        remaining.note_sent(_CIRCUIT)
    assert remaining.pause_seconds(_CIRCUIT, live_workers=100) is None
    _answered(remaining, Limit(1_000, 150, 60.0))
    assert remaining.pause_seconds(_CIRCUIT, live_workers=100, is_calling=True) is None
    remaining.note_sent(_CIRCUIT)
    assert remaining.pause_seconds(_CIRCUIT, live_workers=100, is_calling=True) == pytest.approx(
        60.0
    )


@pytest.mark.parametrize(
    "limit",
    [
        Limit(10, None, 9.0),
        Limit(10, 0, None),
        Limit(10, 0, 0.0),
        Limit(10, 10**14, 9.0),
        Limit(),
    ],
)
def test_what_makes_no_sense_pauses_nobody(limit: Limit) -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    _answered(remaining, limit)
    assert remaining.pause_seconds(_CIRCUIT) is None


def test_reset_in_ten_hours_pauses_for_a_minute_at_most() -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    _answered(remaining, Limit(10, 0, 36_000.0))
    assert remaining.pause_seconds(_CIRCUIT) == PAUSE_SECONDS_MAX


def test_what_was_reported_ends_with_its_window() -> None:
    clock = ManualClock(1_000.0)
    remaining = RemainingCalls(clock)
    _answered(remaining, Limit(10, 1, 9.0))
    clock.now += 9.1
    remaining.note_sent(_CIRCUIT)
    assert remaining.pause_seconds(_CIRCUIT) is None


@pytest.mark.parametrize("limit", [10, None])
def test_provider_that_always_tells_none_left_is_believed_once(limit: int | None) -> None:
    clock = ManualClock(1_000.0)
    remaining = RemainingCalls(clock)
    assert not _answered(remaining, Limit(limit, 0, 36_000.0))
    assert remaining.pause_seconds(_CIRCUIT) is not None
    clock.now += PAUSE_SECONDS_MAX + 0.1
    assert _answered(remaining, Limit(limit, 0, 36_000.0))
    for _ in range(10):
        assert not _answered(remaining, Limit(limit, 0, 36_000.0))
        assert remaining.pause_seconds(_CIRCUIT) is None
    # In ten minutes it may have been mended.
    clock.now += 600
    _answered(remaining, Limit(limit, 0, 5.0))
    assert remaining.pause_seconds(_CIRCUIT) == pytest.approx(5.0)


def test_small_limit_that_is_used_up_again_is_no_contradiction() -> None:
    clock = ManualClock(1_000.0)
    remaining = RemainingCalls(clock)
    _answered(remaining, Limit(2, 0, 5.0), live_workers=2)
    assert remaining.pause_seconds(_CIRCUIT) == pytest.approx(5.0)
    clock.now += 5.1
    # The other worker's call was the first of the two.
    assert not _answered(remaining, Limit(2, 0, 5.0), live_workers=2)
    assert remaining.pause_seconds(_CIRCUIT) == pytest.approx(5.0)


def test_circuits_are_apart() -> None:
    remaining = RemainingCalls(ManualClock(1_000.0))
    _answered(remaining, Limit(10, 0, 9.0))
    assert remaining.pause_seconds("scripted/beta/open") is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("x-ratelimit-remaining-requests", "3", True),
        ("X-RateLimit-Remaining-Requests", "256", True),
        ("x-ratelimit-remaining-requests", "257", False),
        ("x-ratelimit-remaining-requests", "9" * 400, False),
        ("x-ratelimit-remaining-requests", "-1", True),
        ("x-ratelimit-remaining-requests", "many", True),
        ("anthropic-ratelimit-requests-remaining", "0", True),
        ("ratelimit-remaining", "0", True),
        ("ratelimit", '"default";r=7;t=30', True),
        ("x-ratelimit-remaining-tokens", "0", False),
        ("ratelimitbysize-remaining", "0", False),
        ("x-ratelimit-limit-requests", "10", False),
        ("x-ratelimit-reset-requests", "1s", False),
        ("content-type", "text/event-stream", False),
    ],
)
def test_only_calls_that_may_run_out_are_worth_reading(
    name: str, value: str, expected: bool
) -> None:
    assert may_run_out([(name.encode(), value.encode())]) is expected
