"""What counts only once a replica has it: for `durability = "replica"`.

Owns a connection of its own and the wait behind every command on it. The wait holds up what is sent
behind it, so reads and events do not go this way; what does is the little that was promised: that a
message is in, and how it ended.

DESIGN. WAIT speaks of the writes of its own connection, so both must leave on the same; and who
wrote nothing there waits for nothing, as a repetition does that finds all of it done, perhaps by
another connection. So a write of our own goes right before each WAIT, which is then for all that
was written until then. A wait that no replica ends takes its whole time, so there is one at a time,
for all who came while the last one was under way: however many, nobody waits longer than twice.

Who is told that no replica confirmed in time does not know whether one has it: the call may be
repeated, since every function of ours may be, and waits again.
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
    """The server did it, and no replica confirmed in time."""


class _PendingCall(NamedTuple):
    """What one caller says, and where the answer goes."""

    command: tuple[Argument, ...]
    answer: asyncio.Future[Reply]


class ReplicatedConnection(Connection):
    """Commands that are answered once a replica has what they wrote."""

    def __init__(self, settings: RedisSettings) -> None:
        # A replica that is waited for is no silence of the server's.
        seconds = settings.timeout_seconds + settings.replica_seconds
        self._redis = Redis(msgspec.structs.replace(settings, timeout_seconds=seconds))
        self._write = ("SET", keys.REPLICATION_MARK(keys.system_root(settings)), "")
        self._wait = ("WAIT", _REPLICAS, int(settings.replica_seconds * 1000))
        self._calls: list[_PendingCall] = []
        self._sending: asyncio.Task[None] | None = None

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command and return its reply, nothing of it a second time.

        Raises:
            NotReplicatedError: no replica has it in time.
            UnavailableError, StoreError: as `Redis.call`.

        """
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._calls.append(_PendingCall(command, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_batches())
        return await answer

    async def _send_batches(self) -> None:
        """Say what is to be said, and then what came meanwhile, until there is nothing."""
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
        """Send a command whose reply nobody needs, and whose loss nobody would miss."""
        self._redis.send(*command)

    async def close(self) -> None:
        """End the connection; who still waits fails."""
        await self._redis.close()


def _resolve(answer: asyncio.Future[Reply], reply: Reply, waited: Reply) -> None:
    """Tell a caller its reply, or what went wrong: with its command, with the wait, with both."""
    if isinstance(reply, BaseException):
        answer.set_exception(reply)
    elif isinstance(waited, BaseException):
        answer.set_exception(waited)
    elif waited[1] < _REPLICAS:
        answer.set_exception(NotReplicatedError("No replica confirmed the write in time."))
    else:
        answer.set_result(reply)


def durable_redis(settings: RedisSettings, redis: Redis) -> "Redis | ReplicatedConnection":
    """Return what to write through that which is promised: a replica's word, where one is asked."""
    return ReplicatedConnection(settings) if settings.durability == "replica" else redis
