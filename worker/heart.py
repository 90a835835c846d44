"""The beat of a worker: a thread that keeps the leases of all its attempts.

Owns a thread, an event loop and a connection of its own, so that an event loop busy with something
else does not cost the worker its leases. Refuses to beat for a loop that is stuck: when the
worker's own loop has not ticked for `STUCK_SECONDS`, its attempts are better off elsewhere.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from shared.clock import Clock
from shared.errors import PolluxError
from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import Claimed, Stop
from shared.settings import Settings
from shared.telemetry import logs

STUCK_SECONDS: Final = 5.0


class Heart:
    """The beating thread. `held` lists what to keep; `on_stop` is called on the worker's loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        held: Callable[[], list[Claimed]],
        on_stop: Callable[[Stop], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._held = held
        self._on_stop = on_stop
        self._loop = asyncio.get_running_loop()
        self._ticked_at = clock.monotonic()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat, and to watch the loop that calls this."""
        self._tick()
        self._thread.start()

    async def stop(self) -> None:
        """Stop beating and let the connection go."""
        self._ticker.cancel()
        self._is_ending = True
        await asyncio.to_thread(self._thread.join)

    def _tick(self) -> None:
        self._ticked_at = self._clock.monotonic()
        self._ticker = self._loop.call_later(STUCK_SECONDS / 10, self._tick)

    def _run(self) -> None:
        asyncio.run(self._beat_on())

    async def _beat_on(self) -> None:
        redis = Redis(self._settings.redis)
        is_stuck = False
        try:
            while not self._is_ending:
                was_stuck = is_stuck
                is_stuck = self._clock.monotonic() - self._ticked_at > STUCK_SECONDS
                if is_stuck and not was_stuck:
                    logs.logger().error("the worker's loop is stuck; its leases are let go")
                if not is_stuck:
                    await self._beat(redis)
                await self._clock.sleep(self._settings.worker.beat_seconds)
        finally:
            await redis.close()

    async def _beat(self, redis: Redis) -> None:
        """Keep every lease, one call a partition; what fails is tried again at the next beat."""
        by_root: dict[str, list[tuple[str, str, int]]] = {}
        for claimed in self._held():
            name = (claimed.account, claimed.id, claimed.attempt)
            by_root.setdefault(claimed.root, []).append(name)
        lease_ms = int(self._settings.worker.lease_seconds * 1000)
        for root, held in by_root.items():
            ask = functions.BeatAsk(lease_ms=lease_ms, held=held)
            try:
                stops = await functions.beat(redis, root, ask)
            except PolluxError as error:
                logs.logger().warning("a beat was missed", error=error.message)
                continue
            except Exception:  # noqa: BLE001  a worker without a beat would lose all that it claims
                logs.logger().exception("a beat failed")
                continue
            for stop in stops:
                self._loop.call_soon_threadsafe(self._on_stop, stop)
