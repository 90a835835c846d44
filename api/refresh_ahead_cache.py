"""Values by name, each reloaded in the background before it is too old to use.

Owns the age of a value: none is used later than `trusted_seconds` after its load began. Knows
nothing of what is loaded.

DESIGN. Trusted for 3 s, a value is used as it is for 2 s. A request that finds it 2 to 3 s old
uses it still, and starts a reload in the background: nobody waits for Redis. Only a request that
finds no value, or one older than 3 s, waits; all such requests wait for the same load.
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
    """Values by name, none used later than `trusted_seconds` after its load began."""

    def __init__(
        self, load: Callable[[Name], Awaitable[Value]], clock: Clock, *, trusted_seconds: float
    ) -> None:
        self._load = load
        self._clock = clock
        self._trusted_seconds = trusted_seconds
        self._values: OrderedDict[Name, tuple[float, Value]] = OrderedDict()
        self._loading: dict[Name, asyncio.Task[Value]] = {}

    async def get(self, name: Name) -> Value:
        """Return the value of a name. Raises what its load raises, if no value is left to trust."""
        now = self._clock.monotonic()
        cached = self._values.get(name)
        if cached is not None and now - cached[0] < self._trusted_seconds * _FRESH_SHARE:
            return cached[1]
        loading = self._loading.get(name) or self._start_refresh(name, now)
        if cached is not None and now - cached[0] < self._trusted_seconds:
            return cached[1]
        return await asyncio.shield(loading)

    def forget(self, name: Name) -> None:
        """Make the next `get` load again; the result of a load under way is not kept."""
        self._values.pop(name, None)
        self._loading.pop(name, None)

    def _start_refresh(self, name: Name, now: float) -> asyncio.Task[Value]:
        loading = self._loading[name] = asyncio.create_task(self._refresh(name, now))
        loading.add_done_callback(lambda task: self._forget_task(name, task))
        return loading

    async def _refresh(self, name: Name, started_at: float) -> Value:
        value = await self._load(name)
        if self._loading.get(name) is not asyncio.current_task():
            return value
        self._values[name] = (started_at, value)
        self._values.move_to_end(name)
        if len(self._values) > _ENTRIES_MAX:
            self._values.popitem(last=False)
        return value

    def _forget_task(self, name: Name, loading: asyncio.Task[Value]) -> None:
        if self._loading.get(name) is loading:
            del self._loading[name]
        if not loading.cancelled():
            # Marks the error as seen: a reload that no request waited for may fail silently.
            loading.exception()
