"""What befalls Redis itself while everybody needs it: killed and started again, hung, or down.

Owns the server's process during a run, one shock at a time, and how long it then took until the
next message was accepted. Refuses to tell anybody that a shock is near.

DESIGN. A server that has been started anew gives every lease its whole time again, so what a dead
worker holds stays where it is as long as Redis falls more often than leases lapse. So now and then
there is time for that.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from shared.clock import SystemClock
from tests.chaos.crowd import Crowd
from tests.support import waiting
from tests.support.server import Server

Shock = Literal["crash", "hang", "outage"]

HUNG_SECONDS: Final = 5.0
DOWN_SECONDS: Final = 3.0
_PATIENCE_SECONDS: Final = 60.0
_BREATH_SECONDS: Final = 0.8
_SHOCKS_PER_REST: Final = 10


class Shocks:
    """The shocks of a run. `back_ms`: from each one's beginning to the next accepted message."""

    def __init__(self, server: Server, crowd: Crowd, *, seed: int, rest_seconds: float) -> None:
        self._server = server
        self._crowd = crowd
        self._clock = SystemClock()
        self._chance = random.Random(seed)
        self._struck_at: float | None = None
        self._under_way: asyncio.Task[None] | None = None
        self._rest_seconds = rest_seconds
        self._count = 0
        self.back_ms: list[int] = []
        crowd.on_accepted = self._accepted

    async def strike(self, kind: Shock) -> None:
        """Begin a shock and return; an earlier one has its end first."""
        await self.rest()
        shocks: dict[Shock, Callable[[], Awaitable[None]]] = {
            "crash": lambda: self._fall(0.0),
            "hang": self._hang,
            "outage": lambda: self._fall(DOWN_SECONDS),
        }
        self._under_way = asyncio.ensure_future(self._go_through(shocks[kind]))

    async def rest(self) -> None:
        """Wait until Redis has served again for a while, whatever befell it."""
        if self._under_way is not None:
            await self._under_way
            self._under_way = None

    async def _go_through(self, shock: Callable[[], Awaitable[None]]) -> None:
        self._struck_at = self._clock.monotonic()
        await shock()

        def is_over() -> bool:
            return self._struck_at is None or self._crowd.is_done

        await waiting.until(is_over, _PATIENCE_SECONDS, what="a message to be accepted again")
        self._count += 1
        is_rest = self._count % _SHOCKS_PER_REST == 0
        breath_seconds = self._chance.uniform(0, _BREATH_SECONDS)
        await self._clock.sleep(self._rest_seconds if is_rest else breath_seconds)

    async def _fall(self, seconds: float) -> None:
        self._server.kill()
        await self._clock.sleep(seconds)
        # The upstream answers in this very loop.
        await asyncio.to_thread(self._server.start)

    async def _hang(self) -> None:
        self._server.pause()
        await self._clock.sleep(HUNG_SECONDS)
        self._server.resume()

    def _accepted(self, sent_at: float) -> None:
        """Hear of a message that is in; one sent before the shock may have been in by then."""
        if self._struck_at is not None and sent_at > self._struck_at:
            self.back_ms.append(int((self._clock.monotonic() - self._struck_at) * 1000))
            self._struck_at = None
