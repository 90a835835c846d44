"""Kills, hangs and outages of Redis during a run.

Owns the server's process, one fault at a time, and the time from each fault to the next accepted
message. Announces no fault to anybody.

DESIGN. A restarted server gives every lease its whole time again. So while Redis crashes more often
than leases lapse, the generations of a dead worker are never requeued. Every tenth fault is
therefore followed by a pause longer than a lease.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from shared.clock import SystemClock
from tests.chaos.chat_clients import ChatClients
from tests.support import waiting
from tests.support.redis_server import Server

RedisFault = Literal["crash", "hang", "outage"]

HUNG_SECONDS: Final = 5.0
DOWN_SECONDS: Final = 3.0
_GIVE_UP_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.8
_FAULTS_PER_REST: Final = 10


class RedisFaults:
    """The faults of a run. `back_ms`: from the beginning of each to the next accepted message."""

    def __init__(
        self, server: Server, chat_clients: ChatClients, *, seed: int, rest_seconds: float
    ) -> None:
        self._server = server
        self._chat_clients = chat_clients
        self._clock = SystemClock()
        self._chance = random.Random(seed)
        self._fault_at: float | None = None
        self._under_way: asyncio.Task[None] | None = None
        self._rest_seconds = rest_seconds
        self._count = 0
        self.back_ms: list[int] = []
        chat_clients.on_accepted = self._accepted

    async def inject(self, kind: RedisFault) -> None:
        """Begin a fault and return; an earlier one is finished first."""
        await self.rest()
        redis_faults: dict[RedisFault, Callable[[], Awaitable[None]]] = {
            "crash": lambda: self._kill_and_restart(0.0),
            "hang": self._hang,
            "outage": lambda: self._kill_and_restart(DOWN_SECONDS),
        }
        self._under_way = asyncio.ensure_future(self._run_fault(redis_faults[kind]))

    async def rest(self) -> None:
        """Wait until the current fault is over and the pause after it has passed."""
        if self._under_way is not None:
            await self._under_way
            self._under_way = None

    async def _run_fault(self, redis_fault: Callable[[], Awaitable[None]]) -> None:
        self._fault_at = self._clock.monotonic()
        await redis_fault()

        def is_over() -> bool:
            return self._fault_at is None or self._chat_clients.is_done

        await waiting.until(is_over, _GIVE_UP_SECONDS, what="a message to be accepted again")
        self._count += 1
        is_rest = self._count % _FAULTS_PER_REST == 0
        pause_seconds = self._chance.uniform(0, _PAUSE_SECONDS)
        await self._clock.sleep(self._rest_seconds if is_rest else pause_seconds)

    async def _kill_and_restart(self, seconds: float) -> None:
        self._server.kill()
        await self._clock.sleep(seconds)
        # In a thread, because the upstream answers in this loop.
        await asyncio.to_thread(self._server.start)

    async def _hang(self) -> None:
        self._server.pause()
        await self._clock.sleep(HUNG_SECONDS)
        self._server.resume()

    def _accepted(self, sent_at: float) -> None:
        """Note an accepted message; one sent before the fault may have been accepted before it."""
        if self._fault_at is not None and sent_at > self._fault_at:
            self.back_ms.append(int((self._clock.monotonic() - self._fault_at) * 1000))
            self._fault_at = None
