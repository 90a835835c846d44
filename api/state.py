"""The typed things a request may reach, made once a process by the lifespan."""

from dataclasses import dataclass, field

from api.follow import Watchers
from api.guards.identify import Identities
from api.guards.limits import ReadLimits, Slots
from api.pace import Paces
from shared.clock import Clock
from shared.errors import UnavailableError
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores import fleet
from shared.stores.accounts import Accounts
from shared.stores.fleet import Fleet

_FLEET_SECONDS = 1.0


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
    watchers: Watchers
    paces: Paces
    _fleet: Fleet = field(default_factory=Fleet)
    _fleet_at: float = -1e9

    async def fleet(self) -> Fleet:
        """Return the live workers, as of at most a second ago."""
        now = self.clock.monotonic()
        if now - self._fleet_at > _FLEET_SECONDS:
            self._fleet_at = now
            try:
                self._fleet = await fleet.view(self.redis, self.settings.redis, self.clock.now_ms())
            except UnavailableError:
                self._fleet_at = -1e9
                raise
        return self._fleet
