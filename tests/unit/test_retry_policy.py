"""What follows a failed call, decided without a clock."""

from typing import Any

import pytest

from shared.errors import (
    BlockReason,
    CallBlockedError,
    Category,
    Failure,
    ProviderError,
    Retry as RetryAdvice,
)
from worker.outcome import Failed, Outcome, Retry
from worker.resilience.retry_policy import (
    RetryState,
    WaitHere,
    decide_next,
    excluded_by,
    may_fail_over,
)

_FRESH = RetryState(calls=1, turn_calls=1, deferrals=0, left=60.0, age=0.0)


def _fault(
    category: Category = "provider_error",
    *,
    advice: RetryAdvice = "backoff",
    seconds: float | None = None,
    code: str = "X",
) -> ProviderError:
    failure = Failure(message="No.", category=category, code=code)
    return ProviderError(failure, retry=advice, retry_after_seconds=seconds)


def _with_code(expected: object, error: ProviderError) -> object:
    """Return the expected outcome with the code of its cause."""
    if isinstance(expected, Retry):
        return expected._replace(code=error.failure.code)
    return Failed(error.failure) if expected == "failed" else expected


def _bar(why: BlockReason, seconds: float, *, is_refused: bool = False) -> CallBlockedError:
    failure = Failure(
        message="No.", category="overloaded", code="PROVIDER_COOLING", retryable=not is_refused
    )
    return CallBlockedError(failure, why, seconds)


_LIMITED = _fault("rate_limit", code="PROVIDER_RATE_LIMITED")
_OVERLOADED = _fault("overloaded", code="PROVIDER_OVERLOADED")
_REFUSED = _fault("auth", advice="never", code="BAD_CREDENTIALS")


@pytest.mark.parametrize(
    ("error", "changed", "expected"),
    [
        (_fault(), {}, WaitHere(0.25)),
        (_fault(), {"calls": 2, "turn_calls": 2}, Retry(3.75)),
        # Later attempts make one call each, further and further apart.
        (_fault(), {"calls": 1, "turn_calls": 3, "deferrals": 1, "left": 900.0}, Retry(11.25)),
        (_fault(), {"calls": 1, "turn_calls": 5, "deferrals": 3, "left": 900.0}, Retry(101.25)),
        (_fault(), {"calls": 1, "turn_calls": 6}, "failed"),
        (_fault(advice="never"), {}, "failed"),
        (_fault(), {"has_shown": True}, "failed"),
        (_fault(), {"left": 0.25}, Retry(0.046875)),
        (_fault(seconds=1.5), {}, WaitHere(1.5)),
        (_fault(seconds=9), {}, Retry(9)),
        (_fault(seconds=9), {"calls": 3, "turn_calls": 3}, Retry(9)),
        (_fault(seconds=9), {"deferrals": 3}, Retry(11.25)),
        # What a provider did not take on is bounded by the deadline alone.
        (_LIMITED, {"calls": 2, "turn_calls": 2}, Retry(3.0)),
        (_LIMITED, {"calls": 9, "turn_calls": 2, "deferrals": 90, "left": 900.0}, Retry(45.0)),
        (_OVERLOADED, {"calls": 2, "turn_calls": 2, "deferrals": 3}, Retry(24.0)),
        # A batch has time until an operator has mended it; a person is told.
        (_REFUSED, {}, "failed"),
        (_REFUSED, {"is_batch": True}, Retry(3.0)),
        # An answer of no use is asked for again at once, or not at all.
        (_fault(code="EMPTY_ANSWER"), {}, WaitHere(0.25)),
        (_fault(code="EMPTY_ANSWER"), {"calls": 2, "turn_calls": 2}, "failed"),
        (_fault(seconds=90), {}, "failed"),
    ],
)
def test_a_failure_is_tried_again_here_or_later_or_stands(
    error: ProviderError, changed: dict[str, Any], expected: object
) -> None:
    outcome = decide_next(error, _FRESH._replace(**changed), 0.5)
    assert outcome == _with_code(expected, error)


@pytest.mark.parametrize(
    ("bar", "changed", "expected"),
    [
        (_bar("cooling", 8), {}, Retry(8.5, "cooling")),
        (_bar("cooling", 8), {"has_fallbacks": True}, Retry(8.5, "cooling")),
        (_bar("cooling", 8), {"deferrals": 99}, Retry(8.5, "cooling")),
        (_bar("cooling", 8), {"left": 8.0}, Retry(8.0, "cooling")),
        (_bar("throttled", 8), {"age": 40.0}, Retry(8.0, "throttled")),
        (_bar("cooling", 8, is_refused=True), {}, "failed"),
        (_bar("cooling", 8, is_refused=True), {"is_batch": True}, Retry(8.0)),
        (_bar("cooling", 1), {}, WaitHere(1.25)),
        (_bar("probing", 1), {"waited_seconds": 1.5}, Retry(3.0, "probing")),
        # Only the deadline ends a wait for room.
        (_bar("busy", 8), {"deferrals": 3}, Retry(10.0, "busy")),
        (_bar("busy", 8), {"deferrals": 99, "left": 5.0}, Retry(5.0, "busy")),
        (_bar("busy", 0), {}, WaitHere(0.75)),
        (_bar("busy", 1), {}, WaitHere(1.25)),
        (_bar("busy", 1), {"has_fallbacks": True}, Retry(3.0, "busy")),
        # Who has waited long is in no hurry to ask again.
        (_bar("busy", 8), {"age": 40.0}, Retry(18.0, "busy")),
        (_bar("busy", 8), {"age": 9_000.0}, Retry(23.0, "busy")),
    ],
)
def test_a_call_that_was_not_made_waits_here_or_in_the_queue(
    bar: CallBlockedError, changed: dict[str, Any], expected: object
) -> None:
    outcome = decide_next(bar, _FRESH._replace(calls=0, turn_calls=0, **changed), 0.5)
    assert outcome == _with_code(expected, bar)


@pytest.mark.parametrize(
    ("outcome", "changed", "expected"),
    [
        (Failed(_fault().failure), {}, True),
        (Failed(_fault("invalid_request", code="UNKNOWN_UPSTREAM_MODEL").failure), {}, True),
        (Failed(_fault("invalid_request").failure), {}, False),
        (Failed(_fault("content_policy").failure), {}, False),
        (Failed(_fault("expired").failure), {}, False),
        (Retry(1), {}, True),
        (Retry(1, "busy"), {}, True),
        (Retry(1), {"has_fallbacks": False}, False),
        (Retry(1), {"has_shown": True}, False),
        (Retry(1), {"turn_calls": 6}, False),
        (WaitHere(1), {}, False),
        (None, {}, False),
    ],
)
def test_the_next_model_is_tried_for_what_is_the_provider_s_own_fault(
    outcome: Outcome | WaitHere | None, changed: dict[str, Any], expected: bool
) -> None:
    at = _FRESH._replace(**({"has_fallbacks": True} | changed))
    assert may_fail_over(outcome, at) == expected


def test_the_route_says_why_a_model_was_passed_over() -> None:
    assert excluded_by(Failed(_fault().failure)) == "failed"
    assert excluded_by(Failed(_bar("cooling", 1).failure)) == "cooling"
    assert excluded_by(Retry(1)) == "failed"
    assert excluded_by(Retry(1, "busy")) == "busy"
    assert {excluded_by(Retry(1, "cooling")), excluded_by(Retry(1, "probing"))} == {"cooling"}


def test_waits_for_room_are_no_deferrals() -> None:
    waiting = [
        Retry(1, why).is_waiting for why in ("failed", "cooling", "probing", "busy", "throttled")
    ]
    assert waiting == [False, False, True, True, True]
