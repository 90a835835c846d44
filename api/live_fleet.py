"""The live workers, as of at most a second ago, and the models that they let callers ask for."""

from typing import Final

from api.refresh_ahead_cache import RefreshAheadCache
from shared.catalogue import Catalogue, CatalogueHolder
from shared.clock import Clock
from shared.redis.client import Redis
from shared.settings import ModelSettings, RedisSettings
from shared.stores import fleet as fleets
from shared.stores.fleet import Fleet
from shared.wire.submission import AUTO

_TRUSTED_SECONDS: Final = 1.0


class LiveFleet:
    """The fleet of workers as this process knows it."""

    def __init__(
        self,
        redis: Redis,
        redis_settings: RedisSettings,
        catalogue_holder: CatalogueHolder,
        clock: Clock,
    ) -> None:
        async def load(_: None) -> Fleet:
            return await fleets.load(redis, redis_settings)

        self._catalogue_holder = catalogue_holder
        self._fleets = RefreshAheadCache(load, clock, trusted_seconds=_TRUSTED_SECONDS)
        self._offered: tuple[Catalogue, Fleet, tuple[ModelSettings, ...]] | None = None

    async def current(self) -> Fleet:
        """Return the live workers, as of at most a second ago."""
        return await self._fleets.get(None)

    def offered(self, fleet: Fleet) -> tuple[ModelSettings, ...]:
        """Return the models that `auto` may choose from; computed once for each fleet."""
        catalogue, cached = self._catalogue_holder.catalogue, self._offered
        if cached is None or cached[0] is not catalogue or cached[1] is not fleet:
            models = catalogue.candidates(
                AUTO, lambda model: fleet.may_take(model, catalogue.provider_of(model))
            )
            cached = self._offered = (catalogue, fleet, models)
        return cached[2]
