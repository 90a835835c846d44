"""The typed things a request may reach, made once a process by the lifespan."""

from dataclasses import dataclass

from api.follow.ring import Rings
from api.follow.subscriber import Subscriber
from api.fresh import Fresh
from api.guards.identify import Identities
from api.guards.limits import ReadLimits, Slots
from api.pace import Paces
from shared.clock import Clock
from shared.redis import functions
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores.accounts import Accounts
from shared.stores.fleet import Fleet


@dataclass(kw_only=True)
class State:
    """What every request shares."""

    settings: Settings
    redis: Redis
    clock: Clock
    accounts: Accounts
    identities: Identities
    read_limits: ReadLimits
    waits: Slots
    subscriber: Subscriber
    rings: Rings
    paces: Paces
    fleets: Fresh[None, Fleet]

    async def fleet(self) -> Fleet:
        """Return the live workers, as of at most a second ago."""
        return await self.fleets.get(None)

    async def expire_if_abandoned(self, root: str) -> bool:
        """End what has passed its deadline in a partition if no worker lives to do it."""
        if (await self.fleet()).workers:
            return False
        await functions.reap(self.redis, root, functions.ReapAsk.of(self.settings))
        return True
