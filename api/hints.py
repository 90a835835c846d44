"""When to look again, for a message that was just taken in and for a generation as it stands.

Owns no arithmetic, which is pace's: only what it is fed with.
"""

from api import pace
from api.state import State
from shared.errors import UnavailableError
from shared.wire.generation import Generation


async def first(state: State, root: str, model: str, ahead: int | None) -> int:
    """Return a receipt's hint, in seconds.

    The message is in: Redis going away now must not refuse it.
    """
    try:
        durations = await state.paces.durations(root, model)
        waiting = pace.wait_seconds(ahead, durations, await state.fleet())
    except UnavailableError:
        return pace.HINT_SECONDS_UNKNOWN
    return pace.hint(durations, 0.0, waiting)


async def now(state: State, root: str, generation: Generation) -> tuple[int, pace.Eta | None]:
    """Return the hint and the estimate; what has ended needs neither."""
    if generation.is_final:
        return 1, None
    durations = await state.paces.durations(root, generation.model)
    waiting = pace.wait_seconds(generation.ahead, durations, await state.fleet())
    elapsed = 0.0
    if generation.started is not None and generation.ahead is None:
        elapsed = max(0.0, (state.clock.now_ms() - generation.started) / 1000)
    return pace.hint(durations, elapsed, waiting), pace.eta(durations, elapsed, waiting)
