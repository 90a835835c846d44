"""What counts only once a replica has it: for `durability = "replica"`.

Owns a connection of its own and the wait behind every command on it. The wait holds up what is sent
behind it, so reads and events do not go this way; what does is the little that was promised: that a
message is in, and how it ended.

DESIGN. WAIT speaks of the writes of its own connection, so both must leave on the same. Who is told
that no replica confirmed in time does not know whether one has it: the call may be repeated, since
every function of ours may be, and waits again.
"""

from typing import Final

import msgspec
from typing_extensions import override

from shared.errors import UnavailableError
from shared.redis.client import Argument, Connection, Redis, Reply
from shared.settings import RedisSettings

_REPLICAS: Final = 1


class NotReplicatedError(UnavailableError):
    """The server did it, and no replica confirmed in time."""


class Replicated(Connection):
    """Commands that are answered once a replica has what they wrote."""

    def __init__(self, settings: RedisSettings) -> None:
        # A replica that is waited for is no silence of the server's.
        seconds = settings.timeout_seconds + settings.replica_seconds
        self._redis = Redis(msgspec.structs.replace(settings, timeout_seconds=seconds))
        self._patience_ms = int(settings.replica_seconds * 1000)

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command and return its reply, nothing of it a second time.

        Raises:
            NotReplicatedError: no replica has it in time.
            UnavailableError, StoreError: as `Redis.call`.

        """
        wait = ("WAIT", _REPLICAS, self._patience_ms)
        reply, confirmed = await self._redis.pipeline(command, wait)
        if confirmed < _REPLICAS:
            raise NotReplicatedError("No replica confirmed the write in time.")
        return reply

    @override
    def send(self, *command: Argument) -> None:
        """Send a command whose reply nobody needs, and whose loss nobody would miss."""
        self._redis.send(*command)

    async def close(self) -> None:
        """End the connection; who still waits fails."""
        await self._redis.close()


def promise(settings: RedisSettings, redis: Redis) -> "Redis | Replicated":
    """Return what to write through that which is promised: a replica's word, where one is asked."""
    return Replicated(settings) if settings.durability == "replica" else redis
