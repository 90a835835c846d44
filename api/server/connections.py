"""The limit on open connections of a process, and which one is closed when all are taken.

Owns which connections are idle (wait for a request) and which are busy. With all places taken, a
new connection evicts the one that has been idle longest, so silent connections keep nobody out.
With none idle, the new connection is not admitted: its first request is answered 503. At most
`REFUSED_MAX` such connections are open beside the others; any more are closed at once. Knows no
addresses: behind a proxy all connections come from one.
"""

import resource
from typing import Final, Protocol

REFUSED_MAX: Final = 256
# File descriptors of everything else: Redis, logs, listening sockets, media.
_FILES_FOR_OTHER_USE: Final = 128


class Connection(Protocol):
    """One connection, as this module sees it."""

    def evict(self) -> None:
        """Close, because another connection takes this one's place."""


class Connections:
    """The admitted connections of a process: at most `admitted_max`; one port's are not counted."""

    def __init__(self, admitted_max: int, *, uncounted_port: int | None = None) -> None:
        self._admitted_max = admitted_max
        self._uncounted_port = uncounted_port
        self._busy: set[Connection] = set()
        # Longest idle first.
        self._idle: dict[Connection, None] = {}

    @property
    def open_max(self) -> int:
        """How many may be open at once, including those that will be refused."""
        return self._admitted_max + min(REFUSED_MAX, self._admitted_max // 2)

    def is_uncounted(self, local_address: tuple[str, int | None] | None) -> bool:
        """Whether a connection came to the port that is not counted."""
        return (
            self._uncounted_port is not None
            and local_address is not None
            and local_address[1] == self._uncounted_port
        )

    def admit(self, connection: Connection, local_address: tuple[str, int | None] | None) -> bool:
        """Admit a new connection as idle; return False where there is no place."""
        if self.is_uncounted(local_address):
            return True
        if len(self._busy) + len(self._idle) >= self._admitted_max:
            longest_idle = next(iter(self._idle), None)
            if longest_idle is None:
                return False
            del self._idle[longest_idle]
            longest_idle.evict()
        self._idle[connection] = None
        return True

    def mark_busy(self, connection: Connection) -> None:
        """Note that an admitted connection has a request."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def mark_idle(self, connection: Connection) -> None:
        """Note that an admitted connection waits for its next request."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)


def raise_open_files_limit(connections_max: int) -> int:
    """Raise the process' limit on open files as far as needed and allowed.

    Return how many connections it allows. Child processes inherit the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + REFUSED_MAX + _FILES_FOR_OTHER_USE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections_max
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return min(connections_max, max(allowed // 2, allowed - REFUSED_MAX - _FILES_FOR_OTHER_USE))
