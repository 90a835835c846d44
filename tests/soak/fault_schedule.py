"""The faults of a run and their times: of workers, of Redis, of an upstream.

Owns the workers that may die, and Redis' process. Faults come one after the other with pauses, in a
seeded order in which each kind is equally frequent.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from shared.clock import SystemClock
from tests.chaos.worker_pool import WorkerChild, WorkerPool
from tests.soak.upstream import Upstream
from tests.support.redis_server import Server

_HANG_SECONDS: Final = 3.0
_OUTAGE_SECONDS: Final = 3.0
_UPSTREAM_AWAY_SECONDS: Final = 8.0
_PAST_LEASE_SECONDS: Final = 2.5


class FaultSchedule:
    """The faults of a run. `marks` are the monotonic times at which they began."""

    def __init__(
        self,
        server: Server,
        pool: WorkerPool,
        upstream: Upstream,
        *,
        killable_workers: int,
        seed: int,
        scale: float,
    ) -> None:
        self.injected: Counter[str] = Counter()
        self.marks: list[float] = []
        self._server = server
        self._pool = pool
        self._upstream = upstream
        self._slots = [pool.fork_worker() for _ in range(killable_workers)]
        self._chance = random.Random(seed)
        self._clock = SystemClock()
        self._scale = scale
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill_worker,
            "worker stopped past its leases": self._stop_worker,
            "worker replaced": self._replace_worker,
            "Redis killed": self._kill_redis,
            f"Redis hung, {_HANG_SECONDS:g} s": self._hang_redis,
            f"Redis away, {_OUTAGE_SECONDS:g} s": self._take_redis_away,
            "Redis cut every connection": self._cut_lines,
            "Redis lost its functions": self._lose_functions,
            f"upstream away, {_UPSTREAM_AWAY_SECONDS:g} s": self._take_upstream_away,
        }

    async def inject_faults(self, ends: float, pause_seconds: float) -> None:
        """Inject one fault after the other until `ends`, and until each kind has come."""
        for kind in self._order():
            await self._clock.sleep(pause_seconds * self._chance.uniform(0.5, 1.5))
            if self._clock.monotonic() > ends and len(self.injected) == len(self._kinds):
                break
            self.marks.append(self._clock.monotonic())
            await self._kinds[kind]()
            self.injected[kind] += 1

    async def stop_workers(self) -> None:
        """Terminate the remaining workers."""
        for child in self._slots:
            await self._pool.until_ready(child)
            child.terminate()
        for child in self._slots:
            await child.ended()

    def _order(self) -> Iterator[str]:
        for _ in itertools.count():
            yield from self._chance.sample(list(self._kinds), len(self._kinds))

    async def _hold_fault(self, seconds: float) -> None:
        await self._clock.sleep(seconds * self._scale)

    async def _choose_worker(self) -> tuple[int, WorkerChild]:
        slot = self._chance.randrange(len(self._slots))
        return slot, await self._pool.until_ready(self._slots[slot])

    async def _kill_worker(self) -> None:
        slot, child = await self._choose_worker()
        child.kill()
        self._slots[slot] = self._pool.fork_worker()

    async def _stop_worker(self) -> None:
        _, child = await self._choose_worker()
        child.pause()
        await self._hold_fault(_PAST_LEASE_SECONDS)
        child.resume()

    async def _replace_worker(self) -> None:
        slot, child = await self._choose_worker()
        self._slots[slot] = self._pool.fork_worker()
        child.terminate()

    async def _kill_redis(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def _hang_redis(self) -> None:
        self._server.pause()
        await self._hold_fault(_HANG_SECONDS)
        self._server.resume()

    async def _take_redis_away(self) -> None:
        self._server.kill()
        await self._hold_fault(_OUTAGE_SECONDS)
        await asyncio.to_thread(self._server.start)

    async def _cut_lines(self) -> None:
        with self._server.raw_client() as raw_client:
            raw_client("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            raw_client("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")

    async def _lose_functions(self) -> None:
        with self._server.raw_client() as raw_client:
            raw_client("FUNCTION", "FLUSH")

    async def _take_upstream_away(self) -> None:
        self._upstream.is_away = True
        await self._hold_fault(_UPSTREAM_AWAY_SECONDS)
        self._upstream.is_away = False
