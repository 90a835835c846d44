"""The connection on which an idle worker blocks, and a fresh one in its place when it is dead.

Owns how late an answer may come there. Refuses to know what is asked on it.

DESIGN. BLPOP has a timeout of its own: an answer that comes later means a dead line or a slow
server, and only a fresh connection tells which. The old one is kept until the fresh one answers, so
a late answer still counts and a slow server is asked nothing twice. Before the old one is closed,
the server is told to stop blocking there: what was sent on it is then done, and the claim that
follows can name it as unanswered; or it never reached the server.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from shared.clock import SystemClock
from shared.errors import PolluxError
from shared.redis.client import Connection, Redis
from shared.settings import RedisSettings
from shared.telemetry import logs

T = TypeVar("T")

_LATE_SECONDS: Final = 0.5
# From the server's word that it no longer blocks there to the answer itself, if it can come.
_LAST_REPLY_SECONDS: Final = 0.1
# Between two attempts at a fresh connection; each takes up to `redis.connect_seconds`.
_PAUSE_SECONDS: Final = 1.0

_sleep: Final = SystemClock().sleep


class WakeupConnection:
    """One asker at a time; `redis` is the connection that is in use."""

    def __init__(self, settings: RedisSettings, idle_seconds: float) -> None:
        # A bell that does not ring for so long is no silence of the server's.
        seconds = settings.timeout_seconds + idle_seconds
        self._settings = msgspec.structs.replace(settings, timeout_seconds=seconds)
        self._replacing: asyncio.Task[None] | None = None
        self._others_distrusted_until = 0.0
        self.redis = Redis(self._settings)

    @property
    def id(self) -> int | None:
        """The server's number for the connection, by which another can wake it."""
        return self.redis.id

    def trusted_connection(self, other: Connection) -> Connection:
        """Return the connection to claim on: what killed the old bell may have hit `other` too.

        That one is taken for good again once it has had its whole timeout to notice.
        """
        return (
            self.redis
            if asyncio.get_running_loop().time() < self._others_distrusted_until
            else other
        )

    async def wait(self, ask: Callable[[Redis], Awaitable[T]], wait_seconds: float) -> T:
        """Return what the server answers, after blocking for `patience_seconds` at most.

        Raises:
            UnavailableError: no answer came, and there may be a fresh connection by now.

        """
        late_seconds = wait_seconds + _LATE_SECONDS
        late = asyncio.get_running_loop().call_later(late_seconds, self._begin_replacing)
        try:
            return await ask(self.redis)
        finally:
            late.cancel()
            if self._replacing is not None:
                self._replacing.cancel()

    async def close(self) -> None:
        """Close what is open."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        await self.redis.close()

    def _begin_replacing(self) -> None:
        # Where there is no line yet, dialling has a bound of its own.
        if self.redis.id is not None:
            self._replacing = asyncio.create_task(self._replace(self.redis.id))

    async def _replace(self, old: int) -> None:
        """Dial until a fresh connection answers or the old one does, which cancels this."""
        while not await self._is_replaced(old):
            await _sleep(_PAUSE_SECONDS)

    async def _is_replaced(self, old: int) -> bool:
        replacement = Redis(self._settings)
        try:
            await replacement.call("CLIENT", "UNBLOCK", old)
            await _sleep(_LAST_REPLY_SECONDS)
            self.redis, replacement = replacement, self.redis
            loop = asyncio.get_running_loop()
            self._others_distrusted_until = loop.time() + self._settings.timeout_seconds
            logs.logger().warning("an idle connection to Redis was dead and is replaced")
        except PolluxError:
            return False
        finally:
            # The old one that was replaced, or the fresh one that was not needed.
            await replacement.close()
        return True
