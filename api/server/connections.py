"""The bound on open connections of a process, and who gets one when all are taken.

Owns which connections wait for a request and which have one. Where all are taken, a new connection
takes the place of the one that has waited longest for a request, which is closed: silent
connections of a stranger keep nobody out. Where none waits, the new one is not admitted: its first
request is answered 503. So many that are not admitted may be open beside the others; any more are
closed at once. Refuses to know addresses: behind a proxy all come from one.
"""

import resource
from typing import Final, Protocol

REFUSED_MAX: Final = 256
# Files of other use: Redis, logs, listening sockets, media.
_FILES_FOR_OTHER_USE: Final = 128


class Connection(Protocol):
    """One connection, as far as this module knows it."""

    def evict(self) -> None:
        """Close, since another connection takes its place."""


class Connections:
    """The admitted connections of one process: `most` at once, beside those to one port."""

    def __init__(self, admitted_max: int, *, uncounted_port: int | None = None) -> None:
        self._admitted_max = admitted_max
        self._uncounted_port = uncounted_port
        self._busy: set[Connection] = set()
        # In the order in which they began to wait.
        self._idle: dict[Connection, None] = {}

    @property
    def open_max(self) -> int:
        """How many may be open at once, those included that will be refused."""
        return self._admitted_max + min(REFUSED_MAX, self._admitted_max // 2)

    def is_uncounted(self, local_address: tuple[str, int | None] | None) -> bool:
        """Tell whether a connection came to the port beside the others."""
        return (
            self._uncounted_port is not None
            and local_address is not None
            and local_address[1] == self._uncounted_port
        )

    def admit(self, connection: Connection, local_address: tuple[str, int | None] | None) -> bool:
        """Let a new connection wait for its first request; False where there is no place."""
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

    def begin(self, connection: Connection) -> None:
        """Note that an admitted connection has a request."""
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def end(self, connection: Connection) -> None:
        """Note that an admitted connection waits for its next request."""
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)


def raise_open_files_limit(connections_max: int) -> int:
    """Raise this process' limit on open files as needed, and as far as it may be raised.

    Return how many connections it allows. Processes that are started later inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + REFUSED_MAX + _FILES_FOR_OTHER_USE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections_max
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return min(connections_max, max(allowed // 2, allowed - REFUSED_MAX - _FILES_FOR_OTHER_USE))
