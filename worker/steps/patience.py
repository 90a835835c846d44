"""What a failed call comes to: another, the queue, the next model, or the end.

Owns how patient an attempt is. The decisions are pure: they are told how things stand and the
chance of their jitter, and read no clock.

DESIGN. What is not the message's own fault waits in the queue until its deadline, further apart
each time, as `causes` says. Only upstream calls are counted, and only those that a provider took
on: at most six a turn, over all attempts and models. A call that was not made (a breaker that
cools, a throttle, limits without room) counts for nothing.
"""

from typing import Final, NamedTuple

from shared.errors import BarredError, ProviderError
from worker.causes import cause_of
from worker.circuits import SHORT_SECONDS
from worker.run import Failed, Outcome, Retry, Run

# Of one model in a turn's first attempt; in later ones, each some time after the last, one.
CALLS_MAX: Final = 2
# Over all attempts and all models of the route.
CALLS_PER_TURN_MAX: Final = 6
_BACKOFF_SECONDS: Final = 0.5
# In the queue, at once.
_LATER_SECONDS_MAX: Final = 60.0
_TAKEN_ON_SECONDS_MAX: Final = 300.0
# After a breaker's time those that waited come apart.
_COOLED_SPREAD_SECONDS: Final = 1.0
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
    is_batch: bool = False


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
        is_batch=run.claimed.lane == "batch",
    )


class Wait(NamedTuple):
    """Wait here for so many seconds, then call the same model again."""

    seconds: float


def after(error: ProviderError, at: Standing, chance: float) -> Failed | Retry | Wait:
    """Decide what follows a failure; `chance` is from 0 to 1."""
    if isinstance(error, BarredError):
        delay = max(error.wait_seconds, _ROOM_SECONDS * chance) + _JITTER_SECONDS * chance
        return Wait(delay) if may_wait_here(at, delay) else in_queue(error, at, chance)
    cause, told = cause_of(error.failure), error.retry_after_seconds or 0.0
    if at.has_shown or at.turn_calls >= CALLS_PER_TURN_MAX or told >= at.left:
        return Failed(error.failure)
    if cause.fault == "credentials":
        return in_vain(error, at, chance)
    if error.retry == "never":
        return Failed(error.failure)
    delay = told or chance * _BACKOFF_SECONDS * float(2 ** max(0, at.calls - 1))
    # Another model goes before one that takes nothing on.
    is_next = at.has_others and not cause.is_taken_on
    if delay <= SHORT_SECONDS and delay < at.left and may_call(at) and not is_next:
        return Wait(delay)
    if not cause.waits:
        return Failed(error.failure)
    return later(error, at, chance)


def later(error: ProviderError, at: Standing, chance: float) -> Retry:
    """Return the wait in the queue, which grows from one to the next.

    The few calls that a provider took on are spread over minutes, as an outage lasts.
    """
    if cause_of(error.failure).is_taken_on:
        grown = min(_TAKEN_ON_SECONDS_MAX, at.left / 4, 5.0 * 3 ** min(at.deferrals, 8))
    else:
        grown = min(_LATER_SECONDS_MAX, 4.0 * 2 ** min(at.deferrals, 8))
    delay = max(error.retry_after_seconds or 0.0, grown * (0.5 + chance / 2))
    return Retry(min(delay, max(0.0, at.left)), code=error.failure.code)


def in_vain(error: ProviderError, at: Standing, chance: float) -> Failed | Retry:
    """Decide what follows refused credentials, which only an operator can mend.

    A batch has a day for that; a person is told at once.
    """
    return later(error, at, chance) if at.is_batch else Failed(error.failure)


def may_wait_here(at: Standing, delay: float) -> bool:
    """Tell whether a wait for room is worth a slot of the worker: another model goes before it."""
    return not at.has_others and at.waited_here + delay <= SHORT_SECONDS


def in_queue(barred: BarredError, at: Standing, chance: float) -> Failed | Retry:
    """Decide what follows a call that was not made, where nobody waits for it here.

    Messages that wait for the same must not come together; a throttle gives each a time of its own.
    """
    if not barred.failure.retryable:
        return in_vain(barred, at, chance)
    delay = barred.wait_seconds
    if barred.why in {"cooling", "slowed"}:
        delay += chance * min(_COOLED_SPREAD_SECONDS, delay)
    elif barred.why != "throttled":
        low, high = _QUEUE_SECONDS
        delay += chance * min(high, max(low, at.age / 2))
    return Retry(min(delay, max(0.0, at.left)), barred.why, barred.failure.code)


def may_call(at: Standing) -> bool:
    """Tell whether the model may be called once more, as far as calls are counted."""
    calls_max = CALLS_MAX if at.deferrals == 0 else 1
    return at.calls < calls_max and at.turn_calls < CALLS_PER_TURN_MAX


def may_pass_over(outcome: Outcome | Wait | None, at: Standing) -> bool:
    """Tell whether what became of one model is no reason to let the next one not try."""
    if not at.has_others or at.has_shown or at.turn_calls >= CALLS_PER_TURN_MAX:
        return False
    return isinstance(outcome, Retry) or is_own_fault(outcome)


def is_own_fault(outcome: Outcome | Wait | None) -> bool:
    """Tell whether it ended for a reason of one model's, of which another need know nothing."""
    return isinstance(outcome, Failed) and cause_of(outcome.failure).passes_over


def excluded_by(outcome: Outcome | None) -> str:
    """Return what the route says of a model that was passed over."""
    if isinstance(outcome, Retry) and outcome.why != "failed":
        return "busy" if outcome.why in {"busy", "throttled"} else "cooling"
    is_cooling = isinstance(outcome, Failed) and outcome.failure.code == "PROVIDER_COOLING"
    return "cooling" if is_cooling else "failed"
