"""The beat of a worker: a thread that keeps the leases of all its attempts.

Owns a thread, an event loop and a connection of its own, so that an event loop busy with something
else does not cost the worker its leases. Refuses to beat for a loop that is stuck: when the
worker's own loop has not ticked for `STUCK_SECONDS`, its attempts are better off elsewhere.
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
# Of more leases in one call every other caller of Redis would wait for milliseconds.
_LEASES_PER_CALL: Final = 400
# A worker without a listener that misses a beat is missed.
_BEATS_MISSED_MAX: Final = 2


class Heartbeat:
    """The beating thread. `held` lists what to keep; `on_stop` is called on the worker's loop."""

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

    def note_listener(self, *, is_listener_lost: bool) -> None:
        """Take note that the worker's listener is away, or back; the first is told at once."""
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
                    logs.logger().error("the worker's loop is stuck; its leases are let go")
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
        """Keep every lease; a partition that does not answer holds up no other's beat."""
        by_root: dict[str, list[tuple[str, str, int]]] = {}
        if self._is_listener_lost:
            # Where it holds nothing now, it may be known from before.
            by_root = {root: [] for root in self._connections}
        for claimed in self._held():
            name = (claimed.account, claimed.id, claimed.attempt)
            by_root.setdefault(claimed.root, []).append(name)
        for root, held in by_root.items():
            before = self._beats.get(root)
            if before is None or before.done():
                self._beats[root] = asyncio.create_task(self._beat(root, held))

    async def _beat(self, root: str, held: list[tuple[str, str, int]]) -> None:
        """Keep the leases of a partition, piece by piece; the next beat tries what fails again."""
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
            except Exception:  # noqa: BLE001  a worker without a beat would lose all that it claims
                logs.logger().exception("a beat failed")
                continue
            for stop in stops:
                self._loop.call_soon_threadsafe(self._on_stop, stop)
