"""Counts the commands that a server receives, by MONITOR.

Commands inside a function are not counted, only those over a socket; a function is counted by its
own name, without the library's.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared import ids
from shared.redis import library
from shared.redis.client import Redis
from tests.support.redis_server import Server
from tests.support.waiting import until

_LINE_BYTES: Final = 1 << 24
_COMMAND: Final = re.compile(rb'^\+\d+\.\d+ \[\d+ (\S+?)\] "([^"]*)"(?: "([^"]*)")?')


class RedisMonitor:
    """The commands so far, by name."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._last = ""
        self.counts: Counter[str] = Counter()

    def count_line(self, line: bytes) -> None:
        """Count the command of a line."""
        found = _COMMAND.match(line)
        if found is None or found[1] == b"lua":
            return
        verb, first = found[2].decode().upper(), (found[3] or b"").decode()
        if verb == "ECHO":
            self._last = first
            return
        is_function = verb in {"FCALL", "FCALL_RO"}
        self.counts[first.removeprefix(f"{library.NAME}_") if is_function else verb] += 1

    async def taken(self) -> Counter[str]:
        """Return the counts up to now, and start again at zero."""
        mark = ids.new_id()
        await self._redis.call("ECHO", mark)
        await until(lambda: self._last == mark, what="the monitor")
        counts, self.counts = self.counts, Counter()
        return counts


@asynccontextmanager
async def monitored(server: Server, redis: Redis) -> AsyncIterator[RedisMonitor]:
    """Count until the end of the block."""
    reader, writer = await asyncio.open_unix_connection(server.socket, limit=_LINE_BYTES)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    monitor = RedisMonitor(redis)

    async def listen() -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                monitor.count_line(line)

    listening = asyncio.create_task(listen())
    try:
        yield monitor
    finally:
        listening.cancel()
        writer.close()
