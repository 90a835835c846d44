"""When to look again, for a message that was just taken in and for a generation as it stands.

Owns no arithmetic, which is pace's: only what it is fed with.
"""

from typing import Final

from api.polling import eta, queue_wait
from api.polling.eta import Eta, KnownDurations, PriorWait
from api.polling.queue_wait import TypicalDuration, Wait
from api.state import State
from shared.errors import UnavailableError
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation, QueuePosition

# A client that obeys each hint, and is a little late, still finds the record of what has ended.
_KEPT_SHARE: Final = 0.5


async def for_receipt(state: State, root: str, model: str, position: QueuePosition | None) -> int:
    """Return a receipt's hint, in seconds; without a line the message may long be under way.

    The message is in: Redis going away now must not refuse it.
    """
    try:
        known, fleet = await state.model_durations.durations(root, model), await state.fleet()
    except UnavailableError:
        return _capped_by_retention(state, eta.HINT_SECONDS_UNKNOWN)
    wait = queue_wait.NO_WAIT
    if position is not None:
        wait = queue_wait.of_receipt(position, model, _typical(known), fleet)
    return _capped_by_retention(state, _hint_while_waiting(known, wait, 0.0))


async def for_generation(state: State, root: str, generation: Generation) -> tuple[int, Eta | None]:
    """Return the hint and the estimate; what has ended needs neither."""
    if generation.is_final:
        return 1, None
    known, fleet = (
        await state.model_durations.durations(root, generation.model),
        await state.fleet(),
    )
    if generation.position is not None:
        wait = queue_wait.of(generation, _typical(known), fleet)
        hint = _hint_while_waiting(known, wait, queue_wait.waited_seconds(generation))
        return _capped_by_retention(state, hint), eta.estimate(
            known, 0.0, wait.seconds
        ) if wait.is_known else None
    elapsed = 0.0
    if generation.started is not None:
        elapsed = max(0.0, (generation.seen - generation.started) / 1000)
    hint = eta.hint(known, elapsed, _prior_wait(generation, known, fleet))
    return _capped_by_retention(state, hint), eta.estimate(known, elapsed, 0.0)


def _hint_while_waiting(known: KnownDurations, wait: Wait, waited: float) -> int:
    """Return the way to the first look of an answer, and not too short a one."""
    shortest = wait.shortest_hint(waited)
    if wait.is_known:
        seconds = max(0.0, wait.seconds - wait.margin)
        return min(eta.HINT_SECONDS_MAX, max(eta.hint_while_waiting(known, seconds), shortest))
    return min(eta.HINT_SECONDS_MAX, max(eta.HINT_SECONDS_UNKNOWN, shortest))


def _prior_wait(generation: Generation, known: KnownDurations, fleet: Fleet) -> PriorWait:
    """Return what a client of an answer that runs has waited, and how often it may have looked."""
    waited = queue_wait.waited_seconds(generation)
    if waited < 1:
        return eta.NO_PRIOR_WAIT
    position = generation.position_when_accepted or QueuePosition()
    wait = queue_wait.of_receipt(position, generation.model, _typical(known), fleet)
    first = _hint_while_waiting(known, wait, 0.0)
    return PriorWait.of(waited, queue_wait.polls_made(waited, first, eta.HINT_SECONDS_MAX))


def _typical(known: KnownDurations) -> TypicalDuration:
    return TypicalDuration(known.typical_seconds, max(0.0, known.margin_seconds))


def _capped_by_retention(state: State, hint: int) -> int:
    """Return a hint that leads to no poll after the record is gone."""
    kept_seconds = state.settings.retention.generation_seconds
    return min(hint, max(1, int(_KEPT_SHARE * kept_seconds)))
