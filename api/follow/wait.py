"""A generation as soon as it is as awaited, or as it is when patience ends.

A waiter is woken by the events that a worker publishes, reads the record then, and does not ask
Redis in between. A message that got lost costs a look once in a few seconds. What passes its
deadline is looked at then: a look ends it where no worker does. Who hangs up waits no longer, and
when the process goes away it answers with what there is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request

from api.follow.subscriber import Subscriber
from api.generation_ref import GenerationRef
from api.server import disconnect
from shared.clock import Clock
from shared.redis import keys
from shared.wire import event as events
from shared.wire.generation import Generation

_POLL_ANYWAY_SECONDS: Final = 5.0
# At what should have ended by now.
_POLL_AGAIN_SECONDS: Final = 1.0
# Times are told in whole milliseconds.
_TICK_SECONDS: Final = 0.001


class WaitDeadline:
    """How long a caller waits: so many seconds, unless its line or this process ends before."""

    def __init__(self, request: Request, seconds: float) -> None:
        self.seconds = seconds
        self.has_ended = False
        self._request = request
        self._changed = asyncio.Event()
        disconnect.listen(request.scope, on_disconnect=self.end, on_shutdown=self.end)

    def end(self) -> None:
        """Wait no longer."""
        self.has_ended = True
        self._changed.set()

    def note_change(self) -> None:
        """Have the waiter look."""
        self._changed.set()

    async def wait_for_change(self, seconds: float) -> None:
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
    find: Callable[[], Awaitable[Generation | None]],
    subscriber: Subscriber,
    clock: Clock,
    ref: GenerationRef,
    is_awaited: Callable[[Generation], bool] | None,
    *,
    wait_deadline: WaitDeadline,
) -> Generation | None:
    """Return a generation once it is as awaited, or as it is when patience ends; None without one.

    `place` is the partition's root, the account and the id, and `look` reads it; `is_awaited` None
    means its end.
    """
    await subscriber.connect()
    ends = clock.monotonic() + wait_deadline.seconds

    def on_message(message: bytes | None) -> None:
        if message is None or is_awaited is not None or events.is_end(message.partition(b" ")[2]):
            wait_deadline.note_change()

    with subscriber.listen(keys.events_channel(*ref), on_message):
        while True:
            generation = await find()
            left = ends - clock.monotonic()
            if generation is None or generation.is_final or left <= 0 or wait_deadline.has_ended:
                return generation
            if is_awaited is not None and is_awaited(generation):
                return generation
            seconds = min(left, _seconds_until_poll(generation))
            # It holds the message: thousands may wait here.
            del generation
            await wait_deadline.wait_for_change(seconds)


def _seconds_until_poll(generation: Generation) -> float:
    """Return after how many seconds without news to look at a generation."""
    if generation.is_past_deadline or generation.is_cancelling:
        return _POLL_AGAIN_SECONDS
    if generation.deadline is None:
        return _POLL_ANYWAY_SECONDS
    left = (generation.deadline - generation.seen) / 1000
    return min(_POLL_ANYWAY_SECONDS, left + _TICK_SECONDS)
