"""The thread that renews the leases of all attempts of a worker.

Owns a thread with its own event loop and connections, so that a busy main loop does not cost the
worker its leases. Refuses to renew for a loop that is stuck: when the main loop has not ticked for
`STUCK_SECONDS`, the leases lapse and other workers take the attempts over.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final

from shared.clock import Clock
from shared.errors import PolluxError, WrongTypeError
from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import Claimed, Stop
from shared.settings import Settings
from shared.telemetry import logs
from worker.partition_guard import PartitionGuard

STUCK_SECONDS: Final = 5.0
# More leases in one call would block every other client of Redis for milliseconds.
_LEASES_PER_CALL: Final = 400
# A worker without a listener that misses a heartbeat is then declared dead.
_BEATS_MISSED_MAX: Final = 2


class Heartbeat:
    """The heartbeat thread. `held` lists the leases; `on_stop` is called on the main loop."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        held: Callable[[], list[Claimed]],
        on_stop: Callable[[Stop], None],
        worker: str = "",
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._held = held
        self._on_stop = on_stop
        self._worker = worker
        self._is_listener_lost = False
        self._partition_guard = PartitionGuard(clock)
        self._beats: dict[str, asyncio.Task[None]] = {}
        self._connections: dict[str, Redis] = {}
        self._beat_now: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._loop = asyncio.get_running_loop()
        self._ticked_at = clock.monotonic()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread, and the ticks of the calling loop that it watches."""
        self._tick()
        self._thread.start()

    async def stop(self) -> None:
        """Stop the thread and close its connections."""
        self._ticker.cancel()
        self._is_ending = True
        await asyncio.to_thread(self._thread.join)

    def note_listener(self, *, is_listener_lost: bool) -> None:
        """Note that the worker's listener is lost, or back; a loss is sent to Redis at once."""
        self._is_listener_lost = is_listener_lost
        if is_listener_lost and self._beat_now is not None:
            loop, event = self._beat_now
            loop.call_soon_threadsafe(event.set)

    def _tick(self) -> None:
        self._ticked_at = self._clock.monotonic()
        self._ticker = self._loop.call_later(STUCK_SECONDS / 10, self._tick)

    def _run(self) -> None:
        asyncio.run(self._beat_loop())

    async def _beat_loop(self) -> None:
        beat_now = asyncio.Event()
        self._beat_now = (asyncio.get_running_loop(), beat_now)
        is_stuck = False
        try:
            while not self._is_ending:
                was_stuck = is_stuck
                is_stuck = self._clock.monotonic() - self._ticked_at > STUCK_SECONDS
                if is_stuck and not was_stuck:
                    logs.logger().error("the worker's loop is stuck; its leases are not renewed")
                beat_now.clear()
                if not is_stuck:
                    self._beat_all()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.worker.beat_seconds):
                        await beat_now.wait()
        finally:
            self._beat_now = None
            for beating in self._beats.values():
                beating.cancel()
            await asyncio.gather(*self._beats.values(), return_exceptions=True)
            for connection in self._connections.values():
                await connection.close()

    def _beat_all(self) -> None:
        """Renew every lease; a partition that does not answer delays no other partition."""
        by_root: dict[str, list[tuple[str, str, int]]] = {}
        if self._is_listener_lost:
            # A partition in which it holds nothing now may still know this worker.
            by_root = {root: [] for root in self._connections}
        for claimed in self._held():
            name = (claimed.account, claimed.id, claimed.attempt)
            by_root.setdefault(claimed.root, []).append(name)
        for root, held in by_root.items():
            before = self._beats.get(root)
            if before is None or before.done():
                self._beats[root] = asyncio.create_task(self._beat(root, held))

    async def _beat(self, root: str, held: list[tuple[str, str, int]]) -> None:
        """Renew the leases of a partition in chunks; the next heartbeat repeats what fails."""
        if root not in self._connections:
            self._connections[root] = Redis(self._settings.redis)
        worker = self._settings.worker
        for first in range(0, max(1, len(held)), _LEASES_PER_CALL):
            ask = functions.RenewLeasesAsk(
                lease_ms=int(worker.lease_seconds * 1000),
                held=held[first : first + _LEASES_PER_CALL],
                worker=self._worker,
                without_listener_ms=int(worker.beat_seconds * 1000 * _BEATS_MISSED_MAX)
                if self._is_listener_lost
                else 0,
            )
            try:
                stops = await functions.renew_leases(self._connections[root], root, ask)
            except WrongTypeError as error:
                self._partition_guard.log_wrong_type(error, work="beat")
                continue
            except PolluxError as error:
                logs.logger().warning("a beat was missed", error=error.message)
                continue
            except Exception:  # noqa: BLE001  one error must not stop the heartbeat
                logs.logger().exception("a beat failed")
                continue
            for stop in stops:
                self._loop.call_soon_threadsafe(self._on_stop, stop)
