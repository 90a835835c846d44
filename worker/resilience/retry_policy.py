"""What follows a failed call: another call here, a wait in the queue, the next model, or the end.

Owns the limits and waits of retries. The decisions are pure: the caller passes the state and the
random number for jitter; no clock is read.

DESIGN. A message that failed through no fault of its own waits in the queue until its deadline,
longer each time (see `failure_causes`). Only calls that a provider accepted are counted: at most
six in a turn, over all attempts and models. A blocked call (an open circuit, a throttle, no room)
is not counted.
"""

from typing import Final, NamedTuple

from shared.errors import CallBlockedError, ProviderError
from worker.outcome import Failed, Outcome, Retry
from worker.resilience.circuits import SHORT_SECONDS
from worker.resilience.failure_causes import cause_of

# Calls of one model in the first attempt of a turn; later attempts make one call each.
CALLS_PER_MODEL_MAX: Final = 2
# Calls of a turn, over all attempts and all models of the route.
CALLS_PER_TURN_MAX: Final = 6
_BACKOFF_SECONDS: Final = 0.5
# The longest single wait in the queue.
_LATER_SECONDS_MAX: Final = 60.0
_ACCEPTED_SECONDS_MAX: Final = 300.0
# When a circuit may be probed again, the messages that waited for it are spread over this time.
_COOLED_SPREAD_SECONDS: Final = 1.0
# The wait for room when nobody knows when a call will end.
_NO_ROOM_SECONDS: Final = 1.0
_JITTER_SECONDS: Final = 0.5
# The longest single wait in the queue for room: half the message's age, within these bounds.
_QUEUE_SECONDS: Final = (4.0, 30.0)


class RetryState(NamedTuple):
    """The state of an attempt: `calls` of this model, `turn_calls` of all models; times in seconds.

    `left` is the time to the deadline, `age` the time since the generation was accepted,
    `waited_seconds` the time this attempt has waited for room in its slot.
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
    """Wait in the worker's slot for `seconds`, then call the same model again."""

    seconds: float


def decide_next(
    error: ProviderError, state: RetryState, jitter: float
) -> Failed | Retry | WaitHere:
    """Decide what follows a failure; `jitter` is a random number from 0 to 1."""
    if isinstance(error, CallBlockedError):
        delay = error.wait_seconds
        if error.why != "throttled":
            delay = max(delay, _NO_ROOM_SECONDS * jitter) + _JITTER_SECONDS * jitter
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
    # If this model accepted nothing, the next model is called before this one again.
    is_next = state.has_fallbacks and not cause.is_accepted
    if delay <= SHORT_SECONDS and delay < state.left and may_call_again(state) and not is_next:
        return WaitHere(delay)
    if not cause.waits:
        return Failed(error.failure)
    return retry_later(error, state, jitter)


def retry_later(error: ProviderError, state: RetryState, jitter: float) -> Retry:
    """Return the wait in the queue, which grows with each deferral.

    The few calls that a provider accepts are spread over minutes, as long as an outage lasts.
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
    """Decide what follows refused credentials, which only an operator can repair.

    A batch has a day for that; an interactive message fails at once.
    """
    return retry_later(error, state, jitter) if state.is_batch else Failed(error.failure)


def may_wait_here(state: RetryState, delay: float) -> bool:
    """Tell whether to wait for room in the worker's slot: only briefly, and without fallbacks."""
    return not state.has_fallbacks and state.waited_seconds + delay <= SHORT_SECONDS


def retry_in_queue(barred: CallBlockedError, state: RetryState, jitter: float) -> Failed | Retry:
    """Decide what follows a blocked call that is not waited for in the slot.

    Jitter spreads the messages that wait for the same resource; a throttle already gives each
    message its own time.
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
    """Tell whether the limits of calls allow one more call of the model."""
    calls_max = CALLS_PER_MODEL_MAX if state.deferrals == 0 else 1
    return state.calls < calls_max and state.turn_calls < CALLS_PER_TURN_MAX


def may_fail_over(outcome: Outcome | WaitHere | None, state: RetryState) -> bool:
    """Tell whether the next model of the route may be called after this outcome."""
    if not state.has_fallbacks or state.has_shown or state.turn_calls >= CALLS_PER_TURN_MAX:
        return False
    return isinstance(outcome, Retry) or is_model_fault(outcome)


def is_model_fault(outcome: Outcome | WaitHere | None) -> bool:
    """Tell whether the failure concerns one model, so that another may still answer."""
    return isinstance(outcome, Failed) and cause_of(outcome.failure).passes_over


def excluded_by(outcome: Outcome | None) -> str:
    """Return the reason that the route records for a model that was passed over."""
    if isinstance(outcome, Retry) and outcome.why != "failed":
        return "busy" if outcome.why in {"busy", "throttled"} else "cooling"
    is_cooling = isinstance(outcome, Failed) and outcome.failure.code == "PROVIDER_COOLING"
    return "cooling" if is_cooling else "failed"
