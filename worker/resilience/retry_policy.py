"""What a failed call comes to: another, the queue, the next model, or the end.

Owns how patient an attempt is. The decisions are pure: they are told how things stand and the
chance of their jitter, and read no clock.

DESIGN. What is not the message's own fault waits in the queue until its deadline, further apart
each time, as `causes` says. Only upstream calls are counted, and only those that a provider took
on: at most six a turn, over all attempts and models. A call that was not made (a breaker that
cools, a throttle, limits without room) counts for nothing.
"""

from typing import Final, NamedTuple

from shared.errors import CallBlockedError, ProviderError
from worker.outcome import Failed, Outcome, Retry
from worker.resilience.circuits import SHORT_SECONDS
from worker.resilience.failure_causes import cause_of

# Of one model in a turn's first attempt; in later ones, each some time after the last, one.
CALLS_PER_MODEL_MAX: Final = 2
# Over all attempts and all models of the route.
CALLS_PER_TURN_MAX: Final = 6
_BACKOFF_SECONDS: Final = 0.5
# In the queue, at once.
_LATER_SECONDS_MAX: Final = 60.0
_ACCEPTED_SECONDS_MAX: Final = 300.0
# After a breaker's time those that waited come apart.
_COOLED_SPREAD_SECONDS: Final = 1.0
# Nobody knows when a slot is given back.
_NO_ROOM_SECONDS: Final = 1.0
_JITTER_SECONDS: Final = 0.5
# How long one waits for room in the queue at most, at once: as long as it has waited, within these.
_QUEUE_SECONDS: Final = (4.0, 30.0)


class RetryState(NamedTuple):
    """How an attempt stands: `calls` of this model, `turn_calls` of all; times in seconds.

    `waited_here` is the wait for room in this attempt, `age` the time since it was accepted.
    """

    calls: int
    turn_calls: int
    deferrals: int
    left: float
    age: float
    waited_seconds: float = 0.0
    has_shown: bool = False
    has_fallbacks: bool = False
    is_batch: bool = False


class WaitHere(NamedTuple):
    """Wait here for so many seconds, then call the same model again."""

    seconds: float


def decide_next(
    error: ProviderError, state: RetryState, jitter: float
) -> Failed | Retry | WaitHere:
    """Decide what follows a failure; `chance` is from 0 to 1."""
    if isinstance(error, CallBlockedError):
        delay = max(error.wait_seconds, _NO_ROOM_SECONDS * jitter) + _JITTER_SECONDS * jitter
        return (
            WaitHere(delay) if may_wait_here(state, delay) else retry_in_queue(error, state, jitter)
        )
    cause, asked_seconds = cause_of(error.failure), error.retry_after_seconds or 0.0
    if state.has_shown or state.turn_calls >= CALLS_PER_TURN_MAX or asked_seconds >= state.left:
        return Failed(error.failure)
    if cause.fault == "credentials":
        return retry_refused_credentials(error, state, jitter)
    if error.retry == "never":
        return Failed(error.failure)
    delay = asked_seconds or jitter * _BACKOFF_SECONDS * float(2 ** max(0, state.calls - 1))
    # Another model goes before one that takes nothing on.
    is_next = state.has_fallbacks and not cause.is_accepted
    if delay <= SHORT_SECONDS and delay < state.left and may_call_again(state) and not is_next:
        return WaitHere(delay)
    if not cause.waits:
        return Failed(error.failure)
    return retry_later(error, state, jitter)


def retry_later(error: ProviderError, state: RetryState, jitter: float) -> Retry:
    """Return the wait in the queue, which grows from one to the next.

    The few calls that a provider took on are spread over minutes, as an outage lasts.
    """
    if cause_of(error.failure).is_accepted:
        backoff_seconds = min(
            _ACCEPTED_SECONDS_MAX, state.left / 4, 5.0 * 3 ** min(state.deferrals, 8)
        )
    else:
        backoff_seconds = min(_LATER_SECONDS_MAX, 4.0 * 2 ** min(state.deferrals, 8))
    delay = max(error.retry_after_seconds or 0.0, backoff_seconds * (0.5 + jitter / 2))
    return Retry(min(delay, max(0.0, state.left)), code=error.failure.code)


def retry_refused_credentials(
    error: ProviderError, state: RetryState, jitter: float
) -> Failed | Retry:
    """Decide what follows refused credentials, which only an operator can mend.

    A batch has a day for that; a person is told at once.
    """
    return retry_later(error, state, jitter) if state.is_batch else Failed(error.failure)


def may_wait_here(state: RetryState, delay: float) -> bool:
    """Tell whether a wait for room is worth a slot of the worker: another model goes before it."""
    return not state.has_fallbacks and state.waited_seconds + delay <= SHORT_SECONDS


def retry_in_queue(barred: CallBlockedError, state: RetryState, jitter: float) -> Failed | Retry:
    """Decide what follows a call that was not made, where nobody waits for it here.

    Messages that wait for the same must not come together; a throttle gives each a time of its own.
    """
    if not barred.failure.retryable:
        return retry_refused_credentials(barred, state, jitter)
    delay = barred.wait_seconds
    if barred.why in {"cooling", "slowed"}:
        delay += jitter * min(_COOLED_SPREAD_SECONDS, delay)
    elif barred.why != "throttled":
        low, high = _QUEUE_SECONDS
        delay += jitter * min(high, max(low, state.age / 2))
    return Retry(min(delay, max(0.0, state.left)), barred.why, barred.failure.code)


def may_call_again(state: RetryState) -> bool:
    """Tell whether the model may be called once more, as far as calls are counted."""
    calls_max = CALLS_PER_MODEL_MAX if state.deferrals == 0 else 1
    return state.calls < calls_max and state.turn_calls < CALLS_PER_TURN_MAX


def may_fail_over(outcome: Outcome | WaitHere | None, state: RetryState) -> bool:
    """Tell whether what became of one model is no reason to let the next one not try."""
    if not state.has_fallbacks or state.has_shown or state.turn_calls >= CALLS_PER_TURN_MAX:
        return False
    return isinstance(outcome, Retry) or is_model_fault(outcome)


def is_model_fault(outcome: Outcome | WaitHere | None) -> bool:
    """Tell whether it ended for a reason of one model's, of which another need know nothing."""
    return isinstance(outcome, Failed) and cause_of(outcome.failure).passes_over


def excluded_by(outcome: Outcome | None) -> str:
    """Return what the route says of a model that was passed over."""
    if isinstance(outcome, Retry) and outcome.why != "failed":
        return "busy" if outcome.why in {"busy", "throttled"} else "cooling"
    is_cooling = isinstance(outcome, Failed) and outcome.failure.code == "PROVIDER_COOLING"
    return "cooling" if is_cooling else "failed"
