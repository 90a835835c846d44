"""Runs single attempts by the pipeline in the test's own loop, without a worker.

Owns what a worker passes to the pipeline. Renews no leases: they are long here.
"""

import asyncio
from typing import Any, Final

import msgspec
from typing_extensions import override

from shared.catalogue import Catalogue
from shared.clock import Clock, SystemClock
from shared.redis.client import Connection
from shared.search_settings import SearchSettings
from shared.wire.generation import Generation
from tests.support.system import System
from tests.worker.front import Front, Ticket
from worker import pipeline
from worker.batches.work import BatchWork
from worker.fetching.image_cache import ImageCache
from worker.fetching.url_fetcher import UrlFetcher
from worker.media_store import MediaStore
from worker.outcome import StopReason, StopSignal
from worker.providers.registry import Registry
from worker.resilience.circuit_breaker import CircuitBreaker
from worker.resilience.circuits import Caller
from worker.run import Dependencies
from worker.tools.registry import ToolRegistry
from worker.web_search.client import SearchClient, connect

# The caller of upstream calls that a test makes itself.
ANN: Final = Caller("ann", "a-message")


class ImpatientClock(SystemClock):
    """A clock whose sleeps end after a moment."""

    @override
    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.001))


class Attempts:
    """Makes attempts; a test may replace `redis` by a lossy one, and `settings`.

    `configured` is what other workers have keys of; `outside` another way out than their own.
    """

    def __init__(self, system: System, front: Front) -> None:
        self.settings = system.settings
        self.redis: Connection = front.redis
        self.stop_signal = StopSignal()
        self.configured: frozenset[str] = frozenset()
        self.url_fetcher: UrlFetcher | None = None
        self.tools = ToolRegistry()
        self._front = front
        self.clock: Clock = ImpatientClock()
        self._image_cache = ImageCache(self.clock)
        self._registry: Registry | None = None
        self._circuit_breaker: CircuitBreaker | None = None
        self._search: SearchClient | None = None

    @property
    def circuit_breaker(self) -> CircuitBreaker:
        """The circuit breaker of all attempts; after its first use the catalogue is fixed."""
        self._registry = self._registry or Registry(Catalogue.of(self.settings), {})
        self._circuit_breaker = self._circuit_breaker or CircuitBreaker(
            self.settings, self.redis, self.clock, self._registry
        )
        return self._circuit_breaker

    def change_models(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Change every model of the catalogue, before the first attempt."""
        assert self._registry is None
        changed = tuple(msgspec.structs.replace(model, **fields) for model in self.settings.models)
        self.settings = msgspec.structs.replace(self.settings, models=changed)

    def change_providers(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Change every provider of the catalogue, before the first attempt."""
        assert self._registry is None
        changed = tuple(
            msgspec.structs.replace(provider, **fields) for provider in self.settings.providers
        )
        self.settings = msgspec.structs.replace(self.settings, providers=changed)

    def change_search(self, search: SearchSettings) -> None:
        """Name who searches the web, before the first attempt."""
        assert self._search is None
        self.settings = msgspec.structs.replace(self.settings, search=search)

    def change_worker(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Change how the worker works."""
        changed = msgspec.structs.replace(self.settings.worker, **fields)
        self.settings = msgspec.structs.replace(self.settings, worker=changed)

    async def run(self, ticket: Ticket) -> None:
        """Claim a generation and make one attempt at it."""
        claimed = await self._front.claim(ticket)
        self.stop_signal = StopSignal()
        await pipeline.run(self._dependencies(), claimed, self.stop_signal)

    def begin(self, ticket: Ticket) -> "asyncio.Task[None]":
        """Begin an attempt beside the test."""
        return asyncio.create_task(self.run(ticket))

    async def stopped_early(self, ticket: Ticket, why: StopReason) -> None:
        """Make an attempt whose stop signal was triggered before it began."""
        claimed = await self._front.claim(ticket)
        self.stop_signal = StopSignal()
        self.stop_signal.trigger(why)
        await pipeline.run(self._dependencies(), claimed, self.stop_signal)

    async def ended(self, message: str = "hello", **wish: Any) -> Generation:  # noqa: ANN401  any wish
        """Submit a message, make one attempt, and return the generation, which must have ended."""
        ticket = await self._front.submit(message, **wish)
        await self.run(ticket)
        found = await self._front.poll(ticket)
        assert found.is_final, found.stage
        return found

    async def close(self) -> None:
        """Close the connections to upstreams."""
        if self._registry is not None:
            await self._registry.close()
        if self._search is not None:
            await self._search.close()

    def _dependencies(self) -> Dependencies:
        circuit_breaker = self.circuit_breaker
        assert self._registry is not None
        self._search = self._search or connect(self.settings.search, {})
        return Dependencies(
            batch_work=BatchWork(self.redis, self.settings, self.clock),
            settings=self.settings,
            redis=self.redis,
            durable_redis=self.redis,
            clock=self.clock,
            registry=self._registry,
            circuit_breaker=circuit_breaker,
            url_fetcher=self.url_fetcher or UrlFetcher(self.settings.egress, self.clock),
            image_cache=self._image_cache,
            media_store=MediaStore(self.settings, self.redis, self.clock),
            configured=self.configured,
            search_client=self._search,
            tools=self.tools,
        )
