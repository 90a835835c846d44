"""How many batch turns a worker runs at once while persons talk to it.

Owns the measure, how long a turn of the event loop takes, and the limit that follows from it.
Refuses to count what runs: `slots` does.

DESIGN. An interactive turn returns to the event loop some ten times before its first token is sent,
and each time waits for what others have to do there. Batch turns whose upstream is fast have much
to do; more of them at once make that wait longer, and hardly any more of them end. So the limit
halves in a tenth of a second of slow turns of the loop, and doubles in two seconds of fast ones.
Where upstreams take their time, the loop is idle and the limit is never met. While nobody talks,
there is none. Example: 48 batch turns at once make a turn of the loop take 10 ms; at 3 of them it
takes 0.5 ms.
"""

import asyncio
from typing import Final

from shared.clock import Clock

# Ten of these are not noticed beside an answer.
_TURN_SECONDS: Final = 0.0005
# So much a new measurement counts in the mean; cut off, so that one pause changes nothing.
_NEW_SHARE: Final = 0.2
_MEASURED_MAX_SECONDS: Final = 4 * _TURN_SECONDS
_HALVES_SECONDS: Final = 0.1
_DOUBLES_SECONDS: Final = 2.0
# Nobody talks any more.
_SILENCE_SECONDS: Final = 10.0


class BatchPace:
    """The limit of one worker: from 1 to `most`."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._limit = float(most)
        self._turn_seconds = 0.0
        self._talked_at: float | None = None
        self._measured_at = 0.0
        self._is_measuring = False

    @property
    def limit(self) -> int:
        """How many batch turns may run now."""
        return int(self._limit) if self._is_talking() else self._most

    def note_interactive(self) -> None:
        """Note that an interactive turn begins."""
        self._talked_at = self._clock.monotonic()

    def measure(self) -> None:
        """Measure a turn of the event loop, if somebody talks; called as a batch turn ends."""
        if not self._is_measuring and self._is_talking():
            self._is_measuring = True
            asyncio.get_running_loop().call_soon(self._note_turn, self._clock.monotonic())

    def _is_talking(self) -> bool:
        if self._talked_at is None:
            return False
        return self._clock.monotonic() - self._talked_at < _SILENCE_SECONDS

    def _note_turn(self, began: float) -> None:
        self._is_measuring = False
        now = self._clock.monotonic()
        measured = min(now - began, _MEASURED_MAX_SECONDS)
        self._turn_seconds += _NEW_SHARE * (measured - self._turn_seconds)
        seconds, self._measured_at = now - self._measured_at, now
        if self._turn_seconds > _TURN_SECONDS:
            self._limit = max(1.0, self._limit * 0.5 ** min(1.0, seconds / _HALVES_SECONDS))
        else:
            self._limit = min(self._most, self._limit * 2 ** min(1.0, seconds / _DOUBLES_SECONDS))
