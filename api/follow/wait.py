"""A generation as soon as it is as awaited, or as it is when patience ends.

A waiter is woken by the events that a worker publishes, reads the record then, and does not ask
Redis in between. A message that got lost costs a look once in a few seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from api.follow.subscriber import Subscriber
from shared.clock import Clock
from shared.redis import keys
from shared.redis.client import Connection
from shared.stores import generations
from shared.wire import event as events
from shared.wire.generation import Generation

_LOOK_ANYWAY_SECONDS: Final = 5.0


class Patience(NamedTuple):
    """How long a caller waits, and whether it has hung up meanwhile."""

    seconds: float
    is_gone: Callable[[], Awaitable[bool]]


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

    `place` is the partition's root, the account and the id; `is_awaited` None means its end. Who
    hangs up is noticed at the next look that no event asked for.
    """
    await subscriber.connect()
    ends = clock.monotonic() + patience.seconds
    changed = asyncio.Event()

    def hear(said: bytes | None) -> None:
        if said is None or is_awaited is not None or events.is_end(said.partition(b" ")[2]):
            changed.set()

    with subscriber.listen(keys.events_channel(*place), hear):
        while True:
            changed.clear()
            generation = await generations.find(redis, *place)
            left = ends - clock.monotonic()
            if generation is None or generation.is_final or left <= 0:
                return generation
            if is_awaited is not None and is_awaited(generation):
                return generation
            try:
                async with asyncio.timeout(min(left, _LOOK_ANYWAY_SECONDS)):
                    await changed.wait()
            except TimeoutError:
                if await patience.is_gone():
                    return generation
