"""What was lately looked up, and looked up again before it is too old to be trusted.

Owns how old a value may be when it is used. Refuses to know what is looked up.

DESIGN. A value past two thirds of its trust is used still, and looked up again behind the request
that found it so. Nobody waits for that look, and what it asks of Redis leaves together with what
the request asks. Only who finds a value past its trust, or none, waits; all who do wait for the
same look.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from shared.clock import Clock

_REMEMBERED_MAX: Final = 10_000
_YOUNG_SHARE: Final = 2 / 3

Name = TypeVar("Name")
Value = TypeVar("Value")


class Fresh(Generic[Name, Value]):
    """Values by name, none used later than `trusted_seconds` after the moment it was asked for."""

    def __init__(
        self, look: Callable[[Name], Awaitable[Value]], clock: Clock, *, trusted_seconds: float
    ) -> None:
        self._look = look
        self._clock = clock
        self._trusted_seconds = trusted_seconds
        self._seen: OrderedDict[Name, tuple[float, Value]] = OrderedDict()
        self._looking: dict[Name, asyncio.Task[Value]] = {}

    async def get(self, name: Name) -> Value:
        """Return the value of a name. Raises what the look-up raises, once no older one is left."""
        now = self._clock.monotonic()
        seen = self._seen.get(name)
        if seen is not None and now - seen[0] < self._trusted_seconds * _YOUNG_SHARE:
            return seen[1]
        looking = self._looking.get(name) or self._begin(name, now)
        if seen is not None and now - seen[0] < self._trusted_seconds:
            return seen[1]
        return await asyncio.shield(looking)

    def forget(self, name: Name) -> None:
        """Let the next who asks look again; a look that is under way was too early."""
        self._seen.pop(name, None)
        self._looking.pop(name, None)

    def _begin(self, name: Name, now: float) -> asyncio.Task[Value]:
        looking = self._looking[name] = asyncio.create_task(self._look_up(name, now))
        looking.add_done_callback(lambda task: self._ended(name, task))
        return looking

    async def _look_up(self, name: Name, asked_at: float) -> Value:
        value = await self._look(name)
        if self._looking.get(name) is not asyncio.current_task():
            return value
        self._seen[name] = (asked_at, value)
        self._seen.move_to_end(name)
        if len(self._seen) > _REMEMBERED_MAX:
            self._seen.popitem(last=False)
        return value

    def _ended(self, name: Name, looking: asyncio.Task[Value]) -> None:
        if self._looking.get(name) is looking:
            del self._looking[name]
        if not looking.cancelled():
            # Whoever waited has it; a look that nobody waited for may fail unheard.
            looking.exception()
