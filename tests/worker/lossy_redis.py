"""A connection to a real Redis that loses the calls that a test names.

Owns the list of recorded calls. Refuses to invent replies: every reply is Redis' own.
"""

from collections import deque
from typing import Any, Final, Literal, cast

import msgspec

from shared.errors import StoreError, UnavailableError
from shared.redis.client import Argument, Connection, Reply

_ASK: Final = 4

# lost: it never reached Redis; unanswered: Redis carried it out, but no reply came; refused: an
# error of Pollux.
Trouble = Literal["none", "lost", "unanswered", "refused"]


class LossyRedis:
    """Each call of a function (or command) in `named` consumes the next of `troubles`."""

    def __init__(self, redis: Connection, *named: str) -> None:
        self.troubles: deque[Trouble] = deque()
        self.asked: list[dict[str, Any]] = []
        self._redis = redis
        self._named = named

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Send a command, or lose it."""
        is_function = str(command[0]).startswith("FCALL")
        name = str(command[1]).split("_", 2)[2] if is_function else str(command[0])
        if name not in self._named:
            return await self._redis.call(*command, repeat=repeat)
        if is_function:
            self.asked.append(msgspec.msgpack.decode(cast("bytes", command[_ASK])))
        trouble = self.troubles.popleft() if self.troubles else "none"
        if trouble == "lost":
            raise UnavailableError("lost")
        if trouble == "refused":
            raise StoreError("refused")
        reply = await self._redis.call(*command, repeat=repeat)
        if trouble == "unanswered":
            raise UnavailableError("unanswered")
        return reply

    def send(self, *command: Argument) -> None:
        """Send a command whose reply nobody needs."""
        self._redis.send(*command)
