"""The one window: a generation now, or as soon as it has changed.

Owns the process' one subscriber connection: a follower of a generation is woken by the events its
worker publishes, reads the record again, and never asks Redis in between. A message that got lost
costs a look once in a few seconds. Whoever follows, stops or vanishes changes nothing for the
generation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.redis import keys
from shared.redis.client import Connection, Redis, Reply
from shared.settings import RedisSettings
from shared.stores import generations
from shared.wire.generation import Generation

_LOOK_ANYWAY_SECONDS: Final = 5.0


class Watchers:
    """Who waits for which channel in this process."""

    def __init__(self, settings: RedisSettings) -> None:
        self._ear = Redis(settings, on_push=self._on_push, on_ready=self._listen_again)
        self._waiting: dict[str, set[asyncio.Event]] = {}

    async def close(self) -> None:
        """Stop listening."""
        await self._ear.close()

    @contextmanager
    def watch(self, channel: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever something is said on the channel."""
        changed = asyncio.Event()
        others = self._waiting.setdefault(channel, set())
        if not others:
            self._ear.listen("SUBSCRIBE", channel)
        others.add(changed)
        try:
            yield changed
        finally:
            others.discard(changed)
            if not others:
                del self._waiting[channel]
                self._ear.listen("UNSUBSCRIBE", channel)

    async def connect(self) -> None:
        """Open the subscriber's connection, unless it is open."""
        await self._ear.connect()

    def _listen_again(self) -> None:
        """Say every subscription again on a new line, and wake all: they may have missed one."""
        for channel, waiting in self._waiting.items():
            self._ear.listen("SUBSCRIBE", channel)
            for changed in waiting:
                changed.set()

    def _on_push(self, push: list[Reply]) -> None:
        if push[0] == b"message" or push[0] == b"subscribe":
            for changed in self._waiting.get(push[1].decode(), ()):
                changed.set()


class Patience(NamedTuple):
    """How long a caller waits, and whether it has hung up meanwhile."""

    seconds: float
    is_gone: Callable[[], Awaitable[bool]]


async def wait(
    redis: Connection,
    watchers: Watchers,
    clock: Clock,
    place: tuple[str, str, str],
    is_awaited: Callable[[Generation], bool],
    *,
    patience: Patience,
) -> Generation | None:
    """Return a generation once it is as awaited, or as it is when patience ends; None without one.

    `place` is the partition's root, the account and the id. Who hangs up is noticed at the next
    look that no event asked for.
    """
    await watchers.connect()
    until = clock.monotonic() + patience.seconds
    with watchers.watch(keys.events_channel(*place)) as changed:
        while True:
            changed.clear()
            generation = await generations.find(redis, *place)
            left = until - clock.monotonic()
            if generation is None or is_awaited(generation) or left <= 0:
                return generation
            try:
                async with asyncio.timeout(min(left, _LOOK_ANYWAY_SECONDS)):
                    await changed.wait()
            except TimeoutError:
                if await patience.is_gone():
                    return generation
