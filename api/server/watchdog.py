"""One timer for each connection: calls back at a deadline, and when the client does not read.

Owns one timer a connection, never one a request. Knows nothing of what is waited for: it calls
`on_timeout` or `on_stuck_reader`, and the connection acts.

DESIGN. `set_timeout` only stores the deadline. The timer fires no less often than the shortest
usual wait, compares the deadline then, and goes on; so setting a deadline seldom touches the timer.
E.g. with waits of 5 s and more it fires every 5 s. Each time it also measures how many bytes the
client has yet to read. Once there are some, the transport pauses the writer until they are gone, so
their number can only fall: while it falls, the client reads.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

_CHECKS_PER_STUCK_TIME: Final = 4
_CHECK_SECONDS_MIN: Final = 0.05


class Watchdog:
    """The watchdog of one connection; a `deadline` of `math.inf` is none."""

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
        """Start the timer; `shortest_wait_seconds` is the shortest timeout that is often set."""
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
        """Call `on_timeout` in `seconds`; replaces the previous deadline."""
        self.deadline = self._loop.time() + seconds
        if self.deadline < self._timer_at:
            self._schedule_check(self.deadline)

    def note_drained(self) -> None:
        """Note that the transport no longer pauses the writer."""
        self.unread_bytes = 0
        if self._is_buffer_limited:
            self._is_buffer_limited = False
            self._transport.set_write_buffer_limits()

    def stop(self) -> None:
        """Stop the timer, and drop the references to the connection."""
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
        """Measure the bytes that the client has yet to read; note the time if they became fewer."""
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes < self.unread_bytes or not self.unread_bytes:
            self._progress_at = now
        self.unread_bytes = unread_bytes


def _ignore() -> None:
    pass
