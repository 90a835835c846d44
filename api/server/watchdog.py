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

_CHECKS_PER_STUCK_TIME: Final = 4
_CHECK_SECONDS_MIN: Final = 0.05


class Watchdog:
    """The watchdog of one connection. Its `deadline` may be set to `math.inf`: for nothing."""

    deadline = math.inf
    unread_bytes = 0
    _progress_at = 0.0
    _is_buffer_limited = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.WriteTransport,
        *,
        stuck_seconds: float,
        shortest_wait_seconds: float,
        on_timeout: Callable[[], None],
        on_stuck_reader: Callable[[], None],
    ) -> None:
        """Begin; `least_seconds` is the shortest that will often be waited for."""
        self._loop = loop
        self._transport = transport
        self._stuck_seconds = stuck_seconds
        self._check_seconds = max(
            _CHECK_SECONDS_MIN, min(shortest_wait_seconds, stuck_seconds / _CHECKS_PER_STUCK_TIME)
        )
        self._on_timeout = on_timeout
        self._on_stuck_reader = on_stuck_reader
        self._schedule_check(loop.time() + self._check_seconds)

    def set_timeout(self, seconds: float) -> None:
        """Be late in `seconds`, whatever was the deadline before."""
        self.deadline = self._loop.time() + seconds
        if self.deadline < self._timer_at:
            self._schedule_check(self.deadline)

    def note_drained(self) -> None:
        """Learn that the transport holds its writer back no more."""
        self.unread_bytes = 0
        if self._is_buffer_limited:
            self._is_buffer_limited = False
            self._transport.set_write_buffer_limits()

    def end(self) -> None:
        """Look no more, and hold nothing of the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_timeout = self._on_stuck_reader = _ignore

    def _schedule_check(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        self._measure_unread(now)
        if self.unread_bytes and now - self._progress_at >= self._stuck_seconds:
            self._on_stuck_reader()
            return
        if now >= self.deadline:
            self.deadline = math.inf
            self._on_timeout()
        if self.unread_bytes and not self._is_buffer_limited:
            self._is_buffer_limited = True
            self._transport.set_write_buffer_limits(high=0)
        self._schedule_check(min(self.deadline, now + self._check_seconds))

    def _measure_unread(self, now: float) -> None:
        """Note what waits to be read, and when some of it last was."""
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes < self.unread_bytes or not self.unread_bytes:
            self._progress_at = now
        self.unread_bytes = unread_bytes


def _ignore() -> None:
    pass
