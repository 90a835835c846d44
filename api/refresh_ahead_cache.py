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

_ENTRIES_MAX: Final = 10_000
_FRESH_SHARE: Final = 2 / 3

Name = TypeVar("Name")
Value = TypeVar("Value")


class RefreshAheadCache(Generic[Name, Value]):
    """Values by name, none used later than `trusted_seconds` after the moment it was asked for."""

    def __init__(
        self, load: Callable[[Name], Awaitable[Value]], clock: Clock, *, trusted_seconds: float
    ) -> None:
        self._load = load
        self._clock = clock
        self._trusted_seconds = trusted_seconds
        self._values: OrderedDict[Name, tuple[float, Value]] = OrderedDict()
        self._loading: dict[Name, asyncio.Task[Value]] = {}

    async def get(self, name: Name) -> Value:
        """Return the value of a name. Raises what the look-up raises, once no older one is left."""
        now = self._clock.monotonic()
        cached = self._values.get(name)
        if cached is not None and now - cached[0] < self._trusted_seconds * _FRESH_SHARE:
            return cached[1]
        loading = self._loading.get(name) or self._start_refresh(name, now)
        if cached is not None and now - cached[0] < self._trusted_seconds:
            return cached[1]
        return await asyncio.shield(loading)

    def forget(self, name: Name) -> None:
        """Let the next who asks look again; a look that is under way was too early."""
        self._values.pop(name, None)
        self._loading.pop(name, None)

    def _start_refresh(self, name: Name, now: float) -> asyncio.Task[Value]:
        loading = self._loading[name] = asyncio.create_task(self._refresh(name, now))
        loading.add_done_callback(lambda task: self._forget_task(name, task))
        return loading

    async def _refresh(self, name: Name, asked_at: float) -> Value:
        value = await self._load(name)
        if self._loading.get(name) is not asyncio.current_task():
            return value
        self._values[name] = (asked_at, value)
        self._values.move_to_end(name)
        if len(self._values) > _ENTRIES_MAX:
            self._values.popitem(last=False)
        return value

    def _forget_task(self, name: Name, loading: asyncio.Task[Value]) -> None:
        if self._loading.get(name) is loading:
            del self._loading[name]
        if not loading.cancelled():
            # Whoever waited has it; a look that nobody waited for may fail unheard.
            loading.exception()
