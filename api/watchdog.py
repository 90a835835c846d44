"""The watchdog of a connection: told what is waited for, it tells when that has lasted too long.

Owns one timer a connection, never one a request. Refuses to know what is waited for: it says that
the connection is `late`, or that its reader is `stuck`, and the connection ends itself.

DESIGN. A deadline is only written down. The timer fires at a pace no slower than any wait, sees
what the deadline is by then, and goes on to it; so it is hardly ever set anew from outside. Each
time it also looks at what waits to be read by the other side. Once bytes are seen waiting, the
transport is made to hold its writer back until they are gone, so that their number can only fall:
as long as it does, the reader reads.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

_LOOKS: Final = 4
_PACE_SECONDS_MIN: Final = 0.05


class Watchdog:
    """The watchdog of one connection. Its `deadline` may be set to `math.inf`: for nothing."""

    deadline = math.inf
    unread_bytes = 0
    _read_at = 0.0
    _is_tight = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wire: asyncio.WriteTransport,
        *,
        stuck_seconds: float,
        least_seconds: float,
        late: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        """Begin; `least_seconds` is the shortest that will often be waited for."""
        self._loop = loop
        self._wire = wire
        self._stuck_seconds = stuck_seconds
        self._pace_seconds = max(_PACE_SECONDS_MIN, min(least_seconds, stuck_seconds / _LOOKS))
        self._late = late
        self._stuck = stuck
        self._look_at(loop.time() + self._pace_seconds)

    def wait(self, seconds: float) -> None:
        """Be late in `seconds`, whatever was the deadline before."""
        self.deadline = self._loop.time() + seconds
        if self.deadline < self._timer_at:
            self._look_at(self.deadline)

    def all_read(self) -> None:
        """Learn that the transport holds its writer back no more."""
        self.unread_bytes = 0
        if self._is_tight:
            self._is_tight = False
            self._wire.set_write_buffer_limits()

    def end(self) -> None:
        """Look no more, and hold nothing of the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._late = self._stuck = _nothing

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        self._weigh(now)
        if self.unread_bytes and now - self._read_at >= self._stuck_seconds:
            self._stuck()
            return
        if now >= self.deadline:
            self.deadline = math.inf
            self._late()
        if self.unread_bytes and not self._is_tight:
            self._is_tight = True
            self._wire.set_write_buffer_limits(high=0)
        self._look_at(min(self.deadline, now + self._pace_seconds))

    def _weigh(self, now: float) -> None:
        """Note what waits to be read, and when some of it last was."""
        unread_bytes = self._wire.get_write_buffer_size()
        if unread_bytes < self.unread_bytes or not self.unread_bytes:
            self._read_at = now
        self.unread_bytes = unread_bytes


def _nothing() -> None:
    pass
