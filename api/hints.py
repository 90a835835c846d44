"""When to look again, for a message that was just taken in and for a generation as it stands.

Owns no arithmetic, which is pace's: only what it is fed with.
"""

from typing import Final

from api import pace, turn_wait
from api.pace import Before, Eta, Known
from api.state import State
from api.turn_wait import Typical, Wait
from shared.errors import UnavailableError
from shared.stores.fleet import Fleet
from shared.wire.generation import Generation, Line

# A client that obeys each hint, and is a little late, still finds the record of what has ended.
_KEPT_SHARE: Final = 0.5


async def first(state: State, root: str, model: str, line: Line | None) -> int:
    """Return a receipt's hint, in seconds; without a line the message may long be under way.

    The message is in: Redis going away now must not refuse it.
    """
    try:
        known, fleet = await state.paces.durations(root, model), await state.fleet()
    except UnavailableError:
        return _in_time(state, pace.HINT_SECONDS_UNKNOWN)
    wait = turn_wait.NO_WAIT
    if line is not None:
        wait = turn_wait.of_receipt(line, model, _typical(known), fleet)
    return _in_time(state, _hint_of_waiting(known, wait, 0.0))


async def now(state: State, root: str, generation: Generation) -> tuple[int, Eta | None]:
    """Return the hint and the estimate; what has ended needs neither."""
    if generation.is_final:
        return 1, None
    known, fleet = await state.paces.durations(root, generation.model), await state.fleet()
    if generation.line is not None:
        wait = turn_wait.of(generation, _typical(known), fleet)
        hint = _hint_of_waiting(known, wait, turn_wait.waited_seconds(generation))
        return _in_time(state, hint), pace.eta(known, 0.0, wait.seconds) if wait.is_known else None
    elapsed = 0.0
    if generation.started is not None:
        elapsed = max(0.0, (generation.seen - generation.started) / 1000)
    hint = pace.hint(known, elapsed, _before(generation, known, fleet))
    return _in_time(state, hint), pace.eta(known, elapsed, 0.0)


def _hint_of_waiting(known: Known, wait: Wait, waited: float) -> int:
    """Return the way to the first look of an answer, and not too short a one."""
    shortest = wait.shortest_hint(waited)
    if wait.is_known:
        seconds = max(0.0, wait.seconds - wait.margin)
        return min(pace.HINT_SECONDS_MAX, max(pace.hint_of_waiting(known, seconds), shortest))
    return min(pace.HINT_SECONDS_MAX, max(pace.HINT_SECONDS_UNKNOWN, shortest))


def _before(generation: Generation, known: Known, fleet: Fleet) -> Before:
    """Return what a client of an answer that runs has waited, and how often it may have looked."""
    waited = turn_wait.waited_seconds(generation)
    if waited < 1:
        return pace.NOTHING_BEFORE
    line = generation.line_at_first or Line()
    wait = turn_wait.of_receipt(line, generation.model, _typical(known), fleet)
    first = _hint_of_waiting(known, wait, 0.0)
    return Before.of(waited, turn_wait.polls_by(waited, first, pace.HINT_SECONDS_MAX))


def _typical(known: Known) -> Typical:
    return Typical(known.typical_seconds, max(0.0, known.margin_seconds))


def _in_time(state: State, hint: int) -> int:
    """Return a hint that leads to no poll after the record is gone."""
    kept_seconds = state.settings.retention.generation_seconds
    return min(hint, max(1, int(_KEPT_SHARE * kept_seconds)))
