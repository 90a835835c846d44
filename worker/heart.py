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
from worker.apart import Apart

STUCK_SECONDS: Final = 5.0
# Of more leases in one call every other caller of Redis would wait for milliseconds.
_LEASES_PER_CALL: Final = 400
# A worker without a listener that misses a beat is missed.
_BEATS_EXCUSED: Final = 2


class Heart:
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
        self._is_deaf = False
        self._apart = Apart(clock)
        self._beaten: dict[str, asyncio.Task[None]] = {}
        self._lines: dict[str, Redis] = {}
        self._hurry: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
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

    def hears(self, *, is_deaf: bool) -> None:
        """Take note that the worker's listener is away, or back; the first is told at once."""
        self._is_deaf = is_deaf
        if is_deaf and self._hurry is not None:
            loop, event = self._hurry
            loop.call_soon_threadsafe(event.set)

    def _tick(self) -> None:
        self._ticked_at = self._clock.monotonic()
        self._ticker = self._loop.call_later(STUCK_SECONDS / 10, self._tick)

    def _run(self) -> None:
        asyncio.run(self._beat_on())

    async def _beat_on(self) -> None:
        hurry = asyncio.Event()
        self._hurry = (asyncio.get_running_loop(), hurry)
        is_stuck = False
        try:
            while not self._is_ending:
                was_stuck = is_stuck
                is_stuck = self._clock.monotonic() - self._ticked_at > STUCK_SECONDS
                if is_stuck and not was_stuck:
                    logs.logger().error("the worker's loop is stuck; its leases are let go")
                hurry.clear()
                if not is_stuck:
                    self._beat_all()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.worker.beat_seconds):
                        await hurry.wait()
        finally:
            self._hurry = None
            for beating in self._beaten.values():
                beating.cancel()
            await asyncio.gather(*self._beaten.values(), return_exceptions=True)
            for line in self._lines.values():
                await line.close()

    def _beat_all(self) -> None:
        """Keep every lease; a partition that does not answer holds up no other's beat."""
        by_root: dict[str, list[tuple[str, str, int]]] = {}
        if self._is_deaf:
            # Where it holds nothing now, it may be known from before.
            by_root = {root: [] for root in self._lines}
        for claimed in self._held():
            name = (claimed.account, claimed.id, claimed.attempt)
            by_root.setdefault(claimed.root, []).append(name)
        for root, held in by_root.items():
            before = self._beaten.get(root)
            if before is None or before.done():
                self._beaten[root] = asyncio.create_task(self._beat(root, held))

    async def _beat(self, root: str, held: list[tuple[str, str, int]]) -> None:
        """Keep the leases of a partition, piece by piece; the next beat tries what fails again."""
        if root not in self._lines:
            self._lines[root] = Redis(self._settings.redis)
        worker = self._settings.worker
        for first in range(0, max(1, len(held)), _LEASES_PER_CALL):
            ask = functions.BeatAsk(
                lease_ms=int(worker.lease_seconds * 1000),
                held=held[first : first + _LEASES_PER_CALL],
                worker=self._worker,
                deaf_ms=int(worker.beat_seconds * 1000 * _BEATS_EXCUSED) if self._is_deaf else 0,
            )
            try:
                stops = await functions.beat(self._lines[root], root, ask)
            except WrongTypeError as error:
                self._apart.note(error, work="beat")
                continue
            except PolluxError as error:
                logs.logger().warning("a beat was missed", error=error.message)
                continue
            except Exception:  # noqa: BLE001  a worker without a beat would lose all that it claims
                logs.logger().exception("a beat failed")
                continue
            for stop in stops:
                self._loop.call_soon_threadsafe(self._on_stop, stop)
