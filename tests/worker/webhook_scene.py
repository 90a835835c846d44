"""An account with events, a deliverer without a worker around it, and a way to let time pass."""

from collections.abc import Sequence

import msgspec

from shared.clock import Clock, SystemClock
from shared.redis import functions, keys
from shared.redis.functions import SetWebhookAsk
from shared.settings import Settings
from shared.stores import webhooks
from shared.wire.account_event import CODES
from shared.wire.webhook import Delivery, DeliveryState, new_secret
from tests.support import waiting
from tests.support.redis_functions import RedisFunctions, Ticket
from tests.support.webhook_receiver import Receiver, reachable
from worker.fetching.url_fetcher import UrlFetcher
from worker.webhooks.deliverer import Deliverer


class WebhookScene:
    """One partition, an account `ann` and others, and deliverers that a test runs step by step."""

    def __init__(self, queue: RedisFunctions, settings: Settings, *receivers: Receiver) -> None:
        self.queue = queue
        self.settings = msgspec.structs.replace(settings, egress=reachable(*receivers))
        self.secret = new_secret()

    def deliverer(self, clock: Clock | None = None) -> Deliverer:
        """Return a deliverer, as a worker has one."""
        clock = clock or SystemClock()
        url_fetcher = UrlFetcher(self.settings.egress, clock)
        return Deliverer(self.settings, self.queue.redis, clock, url_fetcher)

    async def set_webhook(
        self, url: str, account: str = "ann", events: Sequence[str] = tuple(CODES)
    ) -> None:
        """Set where an account's events go."""
        ask = SetWebhookAsk(
            account=account,
            url=url,
            events=webhooks.events_text(tuple(events)),
            secret=self.secret,
        )
        await functions.set_webhook(self.queue.redis, self.queue.root, ask)

    async def end_one(self, account: str = "ann", webhook_url: str | None = None) -> Ticket:
        """End a generation, which is an event."""
        ticket = await self.queue.submit_alone(account, webhook=webhook_url)
        await self.queue.cancel(ticket)
        return ticket

    async def deliver(self, deliverer: Deliverer) -> None:
        """Send everything that is due, until nothing more is under way."""
        empty_looks = 0
        while empty_looks < 2:
            await deliverer.deliver()
            empty_looks = 0 if deliverer.calls else empty_looks + 1
            await deliverer.drain(30.0)

    async def deliveries(
        self, account: str = "ann", state: DeliveryState | None = None
    ) -> list[Delivery]:
        """Return an account's deliveries, newest first."""
        found, _ = await webhooks.page(
            self.queue.redis, self.queue.root, account, offset=0, limit=1_000, state=state
        )
        return found

    async def pass_time(self, ms: int = 10**10) -> None:
        """Let time pass for all that waits: attempts that are due later, and leases."""
        redis, root = self.queue.redis, self.queue.root
        names = [
            name
            for family in (keys.DELIVERIES_DUE, keys.DELIVERIES_SENT)
            for name in await redis.call("KEYS", family(root, "*", "*"))
        ]
        for name in (*names, keys.DUE_TARGETS(root), keys.UNREAD_LOGS(root)):
            for member in await redis.call("ZRANGE", name, 0, -1):
                await redis.call("ZINCRBY", name, -ms, member)

    async def skip_wait(self) -> bool:
        """Let so much time pass that the next attempt is due; return whether there is one."""
        redis, root = self.queue.redis, self.queue.root
        found = await redis.call("ZRANGE", keys.DUE_TARGETS(root), 0, 0, "WITHSCORES")
        if not found:
            return False
        wait_ms = max(0, int(found[0][1]) - await self.queue.now_ms())
        await self.pass_time(wait_ms)
        for name in await redis.call("KEYS", keys.DELIVERY(root, "*", "*")):
            await redis.call("HINCRBY", name, "give_up", -wait_ms)
        return True

    async def grow_old(self, ms: int, account: str = "ann") -> None:
        """Let deliveries be so old as if they had begun earlier."""
        for delivery in await self.deliveries(account):
            name = keys.DELIVERY(self.queue.root, account, delivery.id)
            await self.queue.redis.call("HINCRBY", name, "give_up", -ms)

    async def received(self, receiver: Receiver, count: int) -> None:
        """Wait until a receiver has received so much."""
        await waiting.until(lambda: len(receiver.received) >= count, what="webhooks")
