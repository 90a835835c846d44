"""The process' one connection that hears what workers publish.

Owns the subscriptions: one a channel, however many listen. A message that gets lost with its
connection is no secret: whoever listens is told when a subscription holds, at first and again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.redis.client import Redis, Reply
from shared.settings import RedisSettings

Hear = Callable[[bytes | None], None]


class Subscriber:
    """Who listens to which channel in this process."""

    def __init__(self, settings: RedisSettings) -> None:
        self._ear = Redis(settings, on_push=self._on_push, on_ready=self._listen_again)
        self._listening: dict[str, set[Hear]] = {}
        self._held: set[str] = set()

    async def connect(self) -> None:
        """Open the connection, unless it is open. Raises UnavailableError."""
        await self._ear.connect()

    async def close(self) -> None:
        """Stop listening."""
        await self._ear.close()

    @contextmanager
    def listen(self, channel: str, hear: Hear) -> Iterator[None]:
        """Have `hear` called with whatever is said on the channel.

        It is called with None when the subscription begins to hold, at once where it does already:
        what was said before that may have been missed.
        """
        others = self._listening.setdefault(channel, set())
        if not others:
            self._ear.listen("SUBSCRIBE", channel)
        others.add(hear)
        try:
            if channel in self._held:
                hear(None)
            yield
        finally:
            others.discard(hear)
            if not others:
                del self._listening[channel]
                self._ear.listen("UNSUBSCRIBE", channel)

    def _listen_again(self) -> None:
        self._held.clear()
        for channel in self._listening:
            self._ear.listen("SUBSCRIBE", channel)

    def _on_push(self, push: list[Reply]) -> None:
        kind, channel, said = push[0], push[1].decode(), push[2]
        if kind == b"subscribe":
            self._held.add(channel)
        elif kind == b"unsubscribe":
            self._held.discard(channel)
        if kind in {b"message", b"subscribe"}:
            for hear in tuple(self._listening.get(channel, ())):
                hear(said if kind == b"message" else None)
