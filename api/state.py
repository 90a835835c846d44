"""The typed things a request may reach, made once a process by the lifespan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from api.accept.load_shedding import LoadMonitor
from api.follow.ring import Rings
from api.follow.subscriber import Subscriber
from api.guards.identify import Identities
from api.guards.inflight_bodies import InflightBodies
from api.guards.large_pages import LargePages
from api.guards.open_waits import OpenWaits
from api.guards.rate_limits import RateLimits
from api.guards.revocations import Revocations
from api.polling.eta import ModelDurations
from api.refresh_ahead_cache import RefreshAheadCache
from shared.catalogue import Catalogue, CatalogueHolder
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.media.files import MediaFiles
from shared.media.url_signing import UrlSigner
from shared.redis.client import Connection, Redis
from shared.redis.server_watch import ServerWatch
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
    catalogue_holder: CatalogueHolder
    redis: Redis
    durable_redis: Connection
    server_watch: ServerWatch
    clock: Clock
    accounts: Accounts
    identities: Identities
    revocations: Revocations
    inflight_bodies: InflightBodies
    rate_limits: RateLimits
    open_waits: OpenWaits
    large_pages: LargePages
    subscriber: Subscriber
    rings: Rings
    model_durations: ModelDurations
    load_monitor: LoadMonitor
    fleets: RefreshAheadCache[None, Fleet]
    files: MediaFiles
    url_signer: UrlSigner
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
        return self.catalogue_holder.catalogue

    def offered(self, fleet: Fleet) -> tuple[ModelSettings, ...]:
        """Return the models that may be asked without a name; looked up once for each fleet."""
        catalogue, cached = self.catalogue, self._offered
        if cached is None or cached[0] is not catalogue or cached[1] is not fleet:
            models = catalogue.candidates(
                AUTO, lambda model: fleet.may_take(model, catalogue.provider_of(model))
            )
            cached = self._offered = (catalogue, fleet, models)
        return cached[2]

    def reload_catalogue(self) -> None:
        """Read the catalogue anew; a faulty one is told and changes nothing."""
        try:
            catalogue = Catalogue.of(Settings.read(self.environment))
        except ConfigurationError as error:
            logs.logger().error("the catalogue stays as it was", faults=error.faults)
            return
        self.catalogue_holder.catalogue = catalogue
        logs.logger().info("catalogue read anew", models=len(catalogue.models))

    async def fleet(self) -> Fleet:
        """Return the live workers, as of at most a second ago."""
        return await self.fleets.get(None)
