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
# A client that obeys each hint, and is a little late, still finds the record of what has ended.
_KEPT_SHARE: Final = 0.5


async def first(state: State, root: str, model: str, line: pace.Line | None) -> int:
    """Return a receipt's hint, in seconds.

    The message is in: Redis going away now must not refuse it.
    """
    try:
        durations = await state.paces.durations(root, model)
        waiting = pace.wait_seconds(line or _NO_LINE, durations, await state.fleet())
    except UnavailableError:
        return _in_time(state, pace.HINT_SECONDS_UNKNOWN)
    return _in_time(state, pace.hint(durations, 0.0, waiting))


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
    hint = _in_time(state, pace.hint(durations, elapsed, waiting))
    return hint, pace.eta(durations, elapsed, waiting)


def _in_time(state: State, hint: int) -> int:
    """Return a hint that leads to no poll after the record is gone."""
    kept_seconds = state.settings.retention.generation_seconds
    return min(hint, max(1, int(_KEPT_SHARE * kept_seconds)))
