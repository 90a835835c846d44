"""The typed things a request may reach, made once a process by the lifespan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from api.follow.ring import Rings
from api.follow.subscriber import Subscriber
from api.fresh import Fresh
from api.guards.arriving import Arriving
from api.guards.identify import Identities
from api.guards.limits import Limits
from api.guards.long_pages import LongPages
from api.guards.places import Places
from api.guards.revocations import Revocations
from api.pace import Paces
from api.pressure import Pressures
from shared.catalogue import Catalogue, Shelf
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.media.files import Files
from shared.media.seal import Seal
from shared.redis.client import Connection, Redis
from shared.redis.watch import Watch
from shared.routing.price import tokens_in
from shared.settings import ModelSettings, Settings
from shared.stores.accounts import Accounts
from shared.stores.fleet import Fleet
from shared.telemetry import logs
from shared.wire.submission import AUTO


@dataclass(kw_only=True)
class State:
    """What every request shares; `promise` carries what is acknowledged to callers.

    `watch` tells in one line what becomes of that when Redis dies, and whether it is still fit.
    """

    settings: Settings
    environment: Mapping[str, str]
    shelf: Shelf
    redis: Redis
    promise: Connection
    watch: Watch
    clock: Clock
    accounts: Accounts
    identities: Identities
    revocations: Revocations
    arriving: Arriving
    limits: Limits
    places: Places
    long_pages: LongPages
    subscriber: Subscriber
    rings: Rings
    paces: Paces
    pressures: Pressures
    fleets: Fresh[None, Fleet]
    files: Files
    seal: Seal
    _offered: tuple[Catalogue, Fleet, tuple[ModelSettings, ...]] | None = field(
        default=None, init=False
    )

    @cached_property
    def persona_tokens_max(self) -> int:
        """What the longest of the companions' personas takes."""
        return max((tokens_in(each.persona) for each in self.settings.companions), default=0)

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue as it is now: hold it for one request, not for the next."""
        return self.shelf.catalogue

    def offered(self, fleet: Fleet) -> tuple[ModelSettings, ...]:
        """Return the models that may be asked without a name; looked up once for each fleet."""
        catalogue, known = self.catalogue, self._offered
        if known is None or known[0] is not catalogue or known[1] is not fleet:
            models = catalogue.candidates(
                AUTO, lambda model: fleet.may_take(model, catalogue.provider_of(model))
            )
            known = self._offered = (catalogue, fleet, models)
        return known[2]

    def renew(self) -> None:
        """Read the catalogue anew; a faulty one is told and changes nothing."""
        try:
            catalogue = Catalogue.of(Settings.read(self.environment))
        except ConfigurationError as error:
            logs.logger().error("the catalogue stays as it was", faults=error.faults)
            return
        self.shelf.catalogue = catalogue
        logs.logger().info("catalogue read anew", models=len(catalogue.models))

    async def fleet(self) -> Fleet:
        """Return the live workers, as of at most a second ago."""
        return await self.fleets.get(None)
