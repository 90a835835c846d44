"""A generation as soon as it is as awaited, or as it is when patience ends.

A waiter is woken by the events that a worker publishes, reads the record then, and does not ask
Redis in between. A message that got lost costs a look once in a few seconds. Who hangs up waits no
longer, and when the process goes away it answers with what there is.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from api import farewell
from api.follow.subscriber import Subscriber
from shared.clock import Clock
from shared.redis import keys
from shared.redis.client import Connection
from shared.stores import generations
from shared.wire import event as events
from shared.wire.generation import Generation

_LOOK_ANYWAY_SECONDS: Final = 5.0


class Patience:
    """How long a caller waits: so many seconds, unless its line or this process ends before."""

    def __init__(self, request: Request, seconds: float) -> None:
        self.seconds = seconds
        self.has_ended = False
        self._request = request
        self._changed = asyncio.Event()
        farewell.listen(request.scope, on_gone=self.end, on_leave=self.end)

    def end(self) -> None:
        """Wait no longer."""
        self.has_ended = True
        self._changed.set()

    def note_change(self) -> None:
        """Have the waiter look."""
        self._changed.set()

    async def change(self, seconds: float) -> None:
        """Wait for a change, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            # Where there is another server than our edge, nobody tells.
            if await self._request.is_disconnected():
                self.has_ended = True
        self._changed.clear()


async def until(
    redis: Connection,
    subscriber: Subscriber,
    clock: Clock,
    place: tuple[str, str, str],
    is_awaited: Callable[[Generation], bool] | None,
    *,
    patience: Patience,
) -> Generation | None:
    """Return a generation once it is as awaited, or as it is when patience ends; None without one.

    `place` is the partition's root, the account and the id; `is_awaited` None means its end.
    """
    await subscriber.connect()
    ends = clock.monotonic() + patience.seconds

    def hear(said: bytes | None) -> None:
        if said is None or is_awaited is not None or events.is_end(said.partition(b" ")[2]):
            patience.note_change()

    with subscriber.listen(keys.events_channel(*place), hear):
        while True:
            generation = await generations.find(redis, *place)
            left = ends - clock.monotonic()
            if generation is None or generation.is_final or left <= 0 or patience.has_ended:
                return generation
            if is_awaited is not None and is_awaited(generation):
                return generation
            # It holds the message: thousands may wait here.
            del generation
            await patience.change(min(left, _LOOK_ANYWAY_SECONDS))
