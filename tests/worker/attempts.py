"""One attempt at a generation, made by the pipeline in the test's own loop, without a worker.

Owns what a worker would hand to the pipeline. Refuses to beat: leases here are long.
"""

import asyncio
from typing import Any, Final

import msgspec
from typing_extensions import override

from shared.catalogue import Catalogue
from shared.clock import Clock, SystemClock
from shared.redis.client import Connection
from shared.websearch import SearchSettings
from shared.wire.generation import Generation
from tests.support.system import System
from tests.worker.front import Front, Ticket
from worker import pipeline
from worker.circuits import Caller
from worker.fetch import Outside
from worker.gallery import Gallery
from worker.gate import Gate
from worker.pictures import Pictures
from worker.providers.registry import Registry
from worker.run import Brake, StopReason, Tools
from worker.search.line import SearchLine, connect

# Whose calls those are that a test makes by itself.
ANN: Final = Caller("ann", "a-message")


class Hasty(SystemClock):
    """A clock that lets nobody wait longer than a moment."""

    @override
    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.001))


class Attempts:
    """A maker of attempts; `redis` may be replaced by a shaky one, `settings` by other ones.

    `configured` is what other workers have keys of; `outside` another way out than their own.
    """

    def __init__(self, system: System, front: Front) -> None:
        self.settings = system.settings
        self.redis: Connection = front.redis
        self.brake = Brake()
        self.configured: frozenset[str] = frozenset()
        self.outside: Outside | None = None
        self._front = front
        self.clock: Clock = Hasty()
        self._pictures = Pictures(self.clock)
        self._registry: Registry | None = None
        self._gate: Gate | None = None
        self._search: SearchLine | None = None

    @property
    def gate(self) -> Gate:
        """The gate of all the attempts; with the first look the catalogue is settled."""
        self._registry = self._registry or Registry(Catalogue.of(self.settings), {})
        self._gate = self._gate or Gate(self.settings, self.redis, self.clock, self._registry)
        return self._gate

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
        self.brake = Brake()
        await pipeline.run(self._tools(), claimed, self.brake)

    def begin(self, ticket: Ticket) -> "asyncio.Task[None]":
        """Begin an attempt beside the test."""
        return asyncio.create_task(self.run(ticket))

    async def pulled(self, ticket: Ticket, why: StopReason) -> None:
        """Make an attempt whose brake was pulled before it began."""
        claimed = await self._front.claim(ticket)
        self.brake = Brake()
        self.brake.pull(why)
        await pipeline.run(self._tools(), claimed, self.brake)

    async def ended(self, message: str = "hello", **wish: Any) -> Generation:  # noqa: ANN401  any wish
        """Submit a message, make one attempt, and return the generation, which must have ended."""
        ticket = await self._front.submit(message, **wish)
        await self.run(ticket)
        found = await self._front.look(ticket)
        assert found.is_final, found.stage
        return found

    async def close(self) -> None:
        """Let go of the upstreams."""
        if self._registry is not None:
            await self._registry.close()
        if self._search is not None:
            await self._search.close()

    def _tools(self) -> Tools:
        gate = self.gate
        assert self._registry is not None
        self._search = self._search or connect(self.settings.search, {})
        return Tools(
            settings=self.settings,
            redis=self.redis,
            promise=self.redis,
            clock=self.clock,
            registry=self._registry,
            gate=gate,
            outside=self.outside or Outside(self.settings.egress, self.clock),
            pictures=self._pictures,
            gallery=Gallery(self.settings, self.redis, self.clock),
            configured=self.configured,
            search=self._search,
        )
