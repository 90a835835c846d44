"""The connection on which an idle worker blocks, and its replacement when it is dead.

Owns how late a reply may be before the connection is suspected. Refuses to know which command
blocks there.

DESIGN. BLPOP has its own timeout: a reply later than that means a dead connection or a slow server,
and only a new connection shows which. The old one is kept until the new one answers, so a late
reply still counts and a slow server is not sent the command twice. Before the old one is closed,
CLIENT UNBLOCK ends its command on the server: either the command was carried out, and the next
claim can list it as unacknowledged, or it never reached the server.
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
# After CLIENT UNBLOCK, how long the reply of the unblocked command may still take to arrive.
_LAST_REPLY_SECONDS: Final = 0.1
# Between two attempts to open a new connection; each takes up to `redis.connect_seconds`.
_PAUSE_SECONDS: Final = 1.0

_sleep: Final = SystemClock().sleep


class WakeupConnection:
    """For one caller at a time; `redis` is the connection in use."""

    def __init__(self, settings: RedisSettings, idle_seconds: float) -> None:
        # While a command blocks, silence of the server is normal: allow for the idle time, too.
        seconds = settings.timeout_seconds + idle_seconds
        self._settings = msgspec.structs.replace(settings, timeout_seconds=seconds)
        self._replacing: asyncio.Task[None] | None = None
        self._others_distrusted_until = 0.0
        self.redis = Redis(self._settings)

    @property
    def id(self) -> int | None:
        """The server's id of the connection, for CLIENT UNBLOCK on another one."""
        return self.redis.id

    def trusted_connection(self, other: Connection) -> Connection:
        """Return the connection to claim on: what killed the old one may have killed `other`, too.

        `other` is trusted again once it has had its whole timeout to notice.
        """
        return (
            self.redis
            if asyncio.get_running_loop().time() < self._others_distrusted_until
            else other
        )

    async def wait(self, ask: Callable[[Redis], Awaitable[T]], wait_seconds: float) -> T:
        """Return the server's reply to a command that blocks for `wait_seconds` at most.

        Raises:
            UnavailableError: no reply came; the connection may have been replaced.

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
        """Close the connection, and one that is being opened."""
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.gather(self._replacing, return_exceptions=True)
        await self.redis.close()

    def _begin_replacing(self) -> None:
        # Before it is connected, connecting has its own timeout.
        if self.redis.id is not None:
            self._replacing = asyncio.create_task(self._replace(self.redis.id))

    async def _replace(self, old: int) -> None:
        """Try until a new connection answers; a reply on the old one cancels this."""
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
            # The old connection that was replaced, or the new one that was not needed.
            await replacement.close()
        return True
