"""Long poll: returns a generation when it has ended or changed, or as it is at the deadline.

Each event that a worker publishes wakes the wait, which then reads the record; in between it asks
Redis nothing. Since a publication may be lost, the record is also read every few seconds, and when
the generation's own deadline passes, which ends an overdue one. A client that disconnects ends its
wait; on shutdown a wait returns the generation as it is.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.requests import Request

from api.follow.subscriber import Subscriber
from api.generation_ref import GenerationRef
from api.guards.identify import Caller
from api.guards.revocations import Revocations
from api.polling.overdue import CurrentGenerations
from api.server import disconnect
from shared.clock import Clock
from shared.redis import keys
from shared.wire import event as events
from shared.wire.generation import Generation

_POLL_ANYWAY_SECONDS: Final = 5.0
# Between polls of a generation that should have ended by now.
_POLL_AGAIN_SECONDS: Final = 1.0
# Times are in whole milliseconds.
_TICK_SECONDS: Final = 0.001


class WaitDeadline:
    """How long a caller waits: some seconds, or until it disconnects or the server shuts down."""

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
        """Wake the wait: the generation may have changed."""
        self._changed.set()

    async def wait_for_change(self, seconds: float) -> None:
        """Return at a change, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            # Under another server than ours no signal comes.
            if await self._request.is_disconnected():
                self.has_ended = True
        self._changed.clear()


class Waits:
    """Waits for generations; a wait ends early when the caller's API key does."""

    def __init__(
        self,
        generations: CurrentGenerations,
        subscriber: Subscriber,
        revocations: Revocations,
        clock: Clock,
    ) -> None:
        self._generations = generations
        self._subscriber = subscriber
        self._revocations = revocations
        self._clock = clock

    async def until(
        self,
        caller: Caller,
        ref: GenerationRef,
        wait_deadline: WaitDeadline,
        is_awaited: Callable[[Generation], bool] | None = None,
    ) -> Generation | None:
        """Return a generation once it has ended or `is_awaited`, or as it is at the deadline.

        Raises:
            RequestError: INVALID_API_KEY when the caller's key ended meanwhile.
            UnavailableError: Redis is away.

        """
        with self._revocations.watch(caller.key, wait_deadline.end) as key_use:
            generation = await self._until(ref, wait_deadline, is_awaited)
        key_use.check()
        return generation

    async def _until(
        self,
        ref: GenerationRef,
        wait_deadline: WaitDeadline,
        is_awaited: Callable[[Generation], bool] | None,
    ) -> Generation | None:
        await self._subscriber.connect()
        ends = self._clock.monotonic() + wait_deadline.seconds

        def on_message(message: bytes | None) -> None:
            if (
                message is None
                or is_awaited is not None
                or events.is_end(message.partition(b" ")[2])
            ):
                wait_deadline.note_change()

        with self._subscriber.listen(keys.events_channel(*ref), on_message):
            while True:
                generation = await self._generations.find(ref)
                left = ends - self._clock.monotonic()
                if generation is None or generation.is_final:
                    return generation
                if left <= 0 or wait_deadline.has_ended:
                    return generation
                if is_awaited is not None and is_awaited(generation):
                    return generation
                seconds = min(left, _seconds_until_poll(generation))
                # It holds the message: thousands may wait here.
                del generation
                await wait_deadline.wait_for_change(seconds)


def _seconds_until_poll(generation: Generation) -> float:
    """Return after how many seconds without an event to read the record again."""
    if generation.is_past_deadline or generation.is_cancelling:
        return _POLL_AGAIN_SECONDS
    if generation.deadline is None:
        return _POLL_ANYWAY_SECONDS
    left = (generation.deadline - generation.seen) / 1000
    return min(_POLL_ANYWAY_SECONDS, left + _TICK_SECONDS)
