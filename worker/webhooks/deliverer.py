"""Takes deliveries that are due from every partition, and sends many at once.

Owns how many calls are under way and when to look again. A delivery is taken under a lease: if this
worker dies, the lease lapses and another worker sends it, with the same id. Events that a process
has written are found by looking: about twice a second in the whole fleet, however many workers,
while there is something to deliver, and less and less often where looks find nothing. A worker that
has just ended something that is to be reported looks at once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

from shared.clock import Clock
from shared.errors import PolluxError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import EndDeliveryAsk, TakeDeliveriesAsk, TakenDelivery
from shared.settings import Settings
from shared.telemetry import logs
from shared.wire.webhook import encode_attempt, new_secret
from worker.fetching.url_fetcher import UrlFetcher
from worker.partition_guard import PartitionGuard
from worker.webhooks.sender import Sender

# Between two looks of the fleet, and of one worker at most.
_LOOK_SECONDS: Final = 0.5
_LOOK_SECONDS_MAX: Final = 10.0
# Looks that find nothing are each so much further apart, until they are this far.
_QUIET_FACTOR: Final = 1.5
_QUIET_SECONDS_MAX: Final = 2.0
_GATHER_SECONDS: Final = 0.02


class Deliverer:
    """The deliveries of one worker; `deliver` is called in a loop, with `until_next` between."""

    def __init__(
        self,
        settings: Settings,
        redis: Connection,
        clock: Clock,
        url_fetcher: UrlFetcher,
        *,
        fleet_size: Callable[[], int] = lambda: 1,
        has_more: asyncio.Event | None = None,
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._sender = Sender(settings.webhooks, url_fetcher, clock)
        self._fleet_size = fleet_size
        self._partition_guard = PartitionGuard(clock)
        self._calls: set[asyncio.Task[None]] = set()
        self._calls_by_account: Counter[str] = Counter()
        # Set where a look may find something, by the end of a call or of a generation.
        self._has_more = has_more or asyncio.Event()
        self._clock = clock
        # Between two looks of the whole fleet.
        self.look_seconds = _LOOK_SECONDS
        self._next_seconds: float | None = None

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    async def deliver(self) -> None:
        """Take what is due and there is room for, and start sending it."""
        self._has_more.clear()
        next_ms: list[int] = []
        for partition in range(self._settings.redis.partitions):
            room = self._settings.webhooks.calls_max - len(self._calls)
            if room <= 0:
                break
            with self._partition_guard("deliver", partition):
                found = await self._take(partition, room)
                next_ms += [] if found is None else [found]
        self._next_seconds = min(next_ms) / 1000 if next_ms else None
        is_quiet = self._next_seconds is None and not self._calls
        quiet_seconds = min(self.look_seconds * _QUIET_FACTOR, _QUIET_SECONDS_MAX)
        self.look_seconds = quiet_seconds if is_quiet else _LOOK_SECONDS

    async def until_next(self) -> None:
        """Wait until something may be due: a time that is known, the end of a call, or a look."""
        look = min(self.look_seconds * self._fleet_size(), _LOOK_SECONDS_MAX)
        seconds = look * random.uniform(0.5, 1.5)  # noqa: S311  jitter
        if self._next_seconds is not None and len(self._calls) < self._settings.webhooks.calls_max:
            seconds = min(seconds, self._next_seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._has_more.wait()
        except TimeoutError:
            return
        # What ends within a moment is taken by one look.
        await self._clock.sleep(_GATHER_SECONDS)

    async def close(self) -> None:
        """Cancel the calls under way: their leases lapse, and other workers make them again."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Wait for the calls under way."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=seconds)

    async def _take(self, partition: int, room: int) -> int | None:
        root = keys.partition_root(self._settings.redis, partition)
        ask = TakeDeliveriesAsk.of(
            self._settings.webhooks, room, dict(self._calls_by_account), new_secret()
        )
        found = await functions.take_deliveries(self._redis, root, ask)
        for fault in found.faults:
            logs.logger().error("deliveries wait for a damaged key", fault=fault)
        for delivery in found.deliveries:
            self._calls_by_account[delivery.account] += 1
            call = asyncio.create_task(self._send(root, delivery))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return found.next_ms

    async def _send(self, root: str, delivery: TakenDelivery) -> None:
        """Send one delivery and store the result. If that fails, its lease lapses."""
        with logs.bound(account=delivery.account, delivery=delivery.id, attempt=delivery.attempt):
            try:
                await self._send_and_store(root, delivery)
            except PolluxError as error:
                logs.logger().warning("a delivery is left to its lease", error=error.message)
            finally:
                self._calls_by_account[delivery.account] -= 1
                self._calls_by_account += Counter()
                self._has_more.set()

    async def _send_and_store(self, root: str, delivery: TakenDelivery) -> None:
        sent = await self._sender.send(delivery)
        ask = EndDeliveryAsk(
            account=delivery.account,
            target=delivery.target,
            id=delivery.id,
            attempt=delivery.attempt,
            outcome=sent.outcome,
            retry_ms=sent.retry_ms,
            calls_per_host=self._settings.webhooks.calls_per_host,
        )
        state = await functions.end_delivery(self._redis, root, ask, encode_attempt(sent.attempt))
        about = {
            "type": delivery.type,
            "status": sent.attempt.status,
            "duration_ms": sent.attempt.duration_ms,
        }
        if state == "failed":
            logs.logger().warning("delivery failed", error=sent.attempt.error, **about)
        elif state == "disabled":
            logs.logger().warning("webhook disabled: its receiver answers 410", **about)
        elif state == "delivered":
            logs.logger().info("delivered", **about)
        else:
            logs.logger().info("not delivered yet", error=sent.attempt.error, **about)
