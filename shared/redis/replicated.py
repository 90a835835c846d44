"""A connection whose replies wait until a replica has the writes: for `durability = "replica"`.

Owns a connection of its own, with a WAIT after the commands on it. Only what was promised goes this
way (a message was accepted; how a generation ended), since the WAIT delays whatever is sent behind
it.

DESIGN. WAIT covers the writes of its own connection, so commands and WAIT use the same one. A
repeated command may write nothing, because its first call, on another connection, has already
written: WAIT would then return at once. So each WAIT is preceded by a write of our own, and covers
all that was written before it. One WAIT runs at a time, for all calls that arrived during the
previous one: however many there are, no call waits longer than two WAITs.

A caller whose write no replica confirmed in time does not know whether one has it. It may repeat
the call, as with all our functions, and waits again.
"""

import asyncio
from typing import Final, NamedTuple

import msgspec
from typing_extensions import override

from shared.errors import UnavailableError
from shared.redis import keys
from shared.redis.client import Argument, Connection, Redis, Reply
from shared.settings import RedisSettings

_REPLICAS: Final = 1


class NotReplicatedError(UnavailableError):
    """The server executed the call, and no replica confirmed it in time."""


class _PendingCall(NamedTuple):
    """One caller's command, and the future of its reply."""

    command: tuple[Argument, ...]
    answer: asyncio.Future[Reply]


class ReplicatedConnection(Connection):
    """A connection that replies once a replica has what a command wrote."""

    def __init__(self, settings: RedisSettings) -> None:
        # Waiting for a replica is not a silence of the server.
        seconds = settings.timeout_seconds + settings.replica_seconds
        self._redis = Redis(msgspec.structs.replace(settings, timeout_seconds=seconds))
        self._write = ("SET", keys.REPLICATION_MARK(keys.system_root(settings)), "")
        self._wait = ("WAIT", _REPLICAS, int(settings.replica_seconds * 1000))
        self._calls: list[_PendingCall] = []
        self._sending: asyncio.Task[None] | None = None

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command and return its reply; nothing is sent a second time.

        Raises:
            NotReplicatedError: no replica confirmed it in time.
            UnavailableError, StoreError: as `Redis.call`.

        """
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls.append(_PendingCall(command, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_batches())
        return await answer

    async def _send_batches(self) -> None:
        """Send the pending calls with a WAIT, then those that arrived meanwhile."""
        while self._calls:
            calls, self._calls = self._calls, []
            *replies, waited = await asyncio.gather(
                *(self._redis.call(*call.command, repeat=False) for call in calls),
                self._redis.pipeline(self._write, self._wait),
                return_exceptions=True,
            )
            for call, reply in zip(calls, replies, strict=True):
                if not call.answer.done():
                    _resolve(call.answer, reply, waited)

    @override
    def send(self, *command: Argument) -> None:
        """Send a command whose reply nobody needs, and which may be lost."""
        self._redis.send(*command)

    async def close(self) -> None:
        """Close the connection; pending calls fail."""
        await self._redis.close()


def _resolve(answer: asyncio.Future[Reply], reply: Reply, waited: Reply) -> None:
    """Give a caller its reply, or the error of its command or of the WAIT."""
    if isinstance(reply, BaseException):
        answer.set_exception(reply)
    elif isinstance(waited, BaseException):
        answer.set_exception(waited)
    elif waited[1] < _REPLICAS:
        answer.set_exception(NotReplicatedError("No replica confirmed the write in time."))
    else:
        answer.set_result(reply)


def durable_redis(settings: RedisSettings, redis: Redis) -> "Redis | ReplicatedConnection":
    """Return the connection for writes that were promised, as the durability demands."""
    return ReplicatedConnection(settings) if settings.durability == "replica" else redis
