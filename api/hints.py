"""When to look again, for a message that was just taken in and for a generation as it stands.

Owns no arithmetic, which is pace's: only what it is fed with.
"""

from typing import Final

from api import pace
from api.state import State
from shared.errors import UnavailableError
from shared.wire.generation import Generation

# A request that is repeated is told of what may long be under way.
_NO_LINE: Final = pace.Line(None)


async def first(state: State, root: str, model: str, line: pace.Line | None) -> int:
    """Return a receipt's hint, in seconds.

    The message is in: Redis going away now must not refuse it.
    """
    try:
        durations = await state.paces.durations(root, model)
        waiting = pace.wait_seconds(line or _NO_LINE, durations, await state.fleet())
    except UnavailableError:
        return pace.HINT_SECONDS_UNKNOWN
    return pace.hint(durations, 0.0, waiting)


async def now(state: State, root: str, generation: Generation) -> tuple[int, pace.Eta | None]:
    """Return the hint and the estimate; what has ended needs neither."""
    if generation.is_final:
        return 1, None
    durations = await state.paces.durations(root, generation.model)
    line = pace.Line(generation.ahead, generation.crowd, generation.most, generation.behind)
    waiting = pace.wait_seconds(line, durations, await state.fleet())
    # What waits for a provider knows when it is tried again, and waits for its turn meanwhile.
    waiting = max(waiting, generation.again_seconds)
    elapsed = 0.0
    if generation.started is not None and generation.ahead is None:
        elapsed = max(0.0, (generation.seen - generation.started) / 1000)
    return pace.hint(durations, elapsed, waiting), pace.eta(durations, elapsed, waiting)
