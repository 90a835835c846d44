"""The process' one pub/sub connection, on which it receives what workers publish.

Owns the subscriptions: one for each channel, however many listeners it has. A message may be lost
with the connection; so listeners are called with None whenever their subscription takes effect,
the first time and after each reconnect.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.redis.client import Redis, Reply
from shared.settings import RedisSettings

Listener = Callable[[bytes | None], None]


class Subscriber:
    """The listeners of each channel in this process."""

    def __init__(self, settings: RedisSettings) -> None:
        self._connection = Redis(settings, on_push=self._on_push, on_ready=self._resubscribe)
        self._listeners: dict[str, set[Listener]] = {}
        self._subscribed: set[str] = set()

    async def connect(self) -> None:
        """Open the connection, unless it is open. Raises UnavailableError."""
        await self._connection.connect()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    @contextmanager
    def listen(self, channel: str, listener: Listener) -> Iterator[None]:
        """Call `listener` with each message of the channel.

        It is called with None when the subscription takes effect, at once if it already has:
        messages before that may have been missed.
        """
        self.add(channel, listener)
        try:
            yield
        finally:
            self.remove(channel, listener)

    def add(self, channel: str, listener: Listener) -> None:
        """Call `listener` as `listen` does, until it is removed."""
        listeners = self._listeners.get(channel)
        if listeners is None:
            listeners = self._listeners[channel] = set()
            self._connection.listen("SUBSCRIBE", channel)
        listeners.add(listener)
        if channel in self._subscribed:
            listener(None)

    def remove(self, channel: str, listener: Listener) -> None:
        """Call `listener` no more."""
        listeners = self._listeners[channel]
        listeners.discard(listener)
        if not listeners:
            del self._listeners[channel]
            self._connection.listen("UNSUBSCRIBE", channel)

    def _resubscribe(self) -> None:
        self._subscribed.clear()
        for channel in self._listeners:
            self._connection.listen("SUBSCRIBE", channel)

    def _on_push(self, push: list[Reply]) -> None:
        kind, channel, message = push[0], push[1].decode(), push[2]
        if kind == b"subscribe":
            self._subscribed.add(channel)
        elif kind == b"unsubscribe":
            self._subscribed.discard(channel)
        if kind in {b"message", b"subscribe"}:
            for listener in tuple(self._listeners.get(channel, ())):
                listener(message if kind == b"message" else None)
