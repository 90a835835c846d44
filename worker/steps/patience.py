"""What a failed call comes to: another, the queue, the next model, or the end.

Owns how patient an attempt is. The decisions are pure: they are told how things stand and the
chance of their jitter, and read no clock.

DESIGN. Three things that look alike are kept apart. A failure may be tried again, here or later; it
counts against the calls, the deferrals and the provider's budget. A breaker that cools counts as a
deferral, since it may be waited for in vain. Somebody else's probe, and limits without room, count
for nothing: only the deadline ends that wait.
"""

from typing import Final, NamedTuple

from shared.errors import BarredError, ProviderError
from worker.gate import OWN_FAULTS, SHORT_SECONDS
from worker.run import Failed, Outcome, Retry, Run

CALLS_MAX: Final = 3
# Over all attempts and all models of the route.
CALLS_PER_TURN_MAX: Final = 6
DEFERRALS_MAX: Final = 3
_BACKOFF_SECONDS: Final = 0.5
# Nobody knows when a slot is given back.
_ROOM_SECONDS: Final = 1.0
_JITTER_SECONDS: Final = 0.5
# How long one waits for room in the queue at most, at once: as long as it has waited, within these.
_QUEUE_SECONDS: Final = (4.0, 30.0)


class Standing(NamedTuple):
    """How an attempt stands: `calls` of this model, `turn_calls` of all; times in seconds.

    `waited_here` is the wait for room in this attempt, `age` the time since it was accepted.
    """

    calls: int
    turn_calls: int
    deferrals: int
    left: float
    age: float
    waited_here: float = 0.0
    has_shown: bool = False
    has_others: bool = False


def standing(run: Run, calls: int, waited_here: float = 0.0) -> Standing:
    """Return how an attempt stands after so many calls of its model."""
    return Standing(
        calls=calls,
        turn_calls=run.calls,
        deferrals=run.claimed.retries,
        left=run.seconds_left(),
        age=(run.now_ms() - run.claimed.accepted_ms) / 1000,
        waited_here=waited_here,
        has_shown=run.writer.has_shown(),
        has_others=bool(run.others),
    )


class Wait(NamedTuple):
    """Wait here for so many seconds, then call the same model again."""

    seconds: float


def after(error: ProviderError, at: Standing, chance: float) -> Failed | Retry | Wait:
    """Decide what follows a failure; `chance` is from 0 to 1."""
    if isinstance(error, BarredError):
        delay = max(error.wait_seconds, _ROOM_SECONDS * chance) + _JITTER_SECONDS * chance
        return Wait(delay) if may_wait_here(at, delay) else in_queue(error, at, chance)
    delay = _delay(error, at.calls, chance)
    if at.has_shown or error.retry == "never" or delay >= at.left:
        return Failed(error.failure)
    if at.turn_calls >= CALLS_PER_TURN_MAX:
        return Failed(error.failure)
    if delay > SHORT_SECONDS and at.deferrals < DEFERRALS_MAX:
        return Retry(delay, code=error.failure.code)
    if at.calls >= CALLS_MAX or delay > SHORT_SECONDS:
        return Failed(error.failure)
    return Wait(delay)


def may_wait_here(at: Standing, delay: float) -> bool:
    """Tell whether a wait for room is worth a slot of the worker: another model goes before it."""
    return not at.has_others and at.waited_here + delay <= SHORT_SECONDS


def in_queue(barred: BarredError, at: Standing, chance: float) -> Failed | Retry:
    """Decide what follows a call that was not made, where nobody waits for it here.

    Credentials that were refused stay refused. Who waits for the same must not come together.
    """
    if barred.why == "cooling":
        delay = barred.wait_seconds + chance * min(1.0, barred.wait_seconds)
        if not barred.failure.retryable or delay >= at.left or at.deferrals >= DEFERRALS_MAX:
            return Failed(barred.failure)
        return Retry(delay, "cooling", barred.failure.code)
    low, high = _QUEUE_SECONDS
    spread = min(high, max(low, at.age / 2))
    delay = min(barred.wait_seconds + chance * spread, at.left)
    return Retry(delay, barred.why, barred.failure.code)


def may_call(at: Standing) -> bool:
    """Tell whether the model may be called once more, as far as calls are counted."""
    return at.calls < CALLS_MAX and at.turn_calls < CALLS_PER_TURN_MAX


def may_pass_over(outcome: Outcome | Wait | None, at: Standing) -> bool:
    """Tell whether what became of one model is no reason to let the next one not try."""
    if not at.has_others or at.has_shown or at.turn_calls >= CALLS_PER_TURN_MAX:
        return False
    return isinstance(outcome, Retry) or is_own_fault(outcome)


def is_own_fault(outcome: Outcome | Wait | None) -> bool:
    """Tell whether it ended for a reason of one model's, of which another need know nothing."""
    if not isinstance(outcome, Failed):
        return False
    failure = outcome.failure
    return failure.category in OWN_FAULTS or failure.code == "UNKNOWN_UPSTREAM_MODEL"


def excluded_by(outcome: Outcome | None) -> str:
    """Return what the route says of a model that was passed over."""
    if isinstance(outcome, Retry) and outcome.why != "failed":
        return "busy" if outcome.why == "busy" else "cooling"
    is_cooling = isinstance(outcome, Failed) and outcome.failure.code == "PROVIDER_COOLING"
    return "cooling" if is_cooling else "failed"


def _delay(error: ProviderError, calls: int, chance: float) -> float:
    """Full jitter, unless the provider said when."""
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds
    return chance * _BACKOFF_SECONDS * float(2 ** (calls - 1))
