"""One attempt at a generation, made by the pipeline in the test's own loop, without a worker.

Owns what a worker would hand to the pipeline. Refuses to beat: leases here are long.
"""

import asyncio
from typing import Any

import msgspec

from shared.clock import SystemClock
from shared.redis.client import Connection
from shared.wire.generation import Generation
from tests.support.system import System
from tests.worker.front import Front, Ticket
from worker import pipeline
from worker.providers.registry import Registry
from worker.run import Brake, StopReason, Tools


class Attempts:
    """A maker of attempts; `redis` may be replaced by a shaky one, `settings` by other ones."""

    def __init__(self, system: System, front: Front) -> None:
        self.settings = system.settings
        self.redis: Connection = front.redis
        self.brake = Brake()
        self._front = front
        self._registries: list[Registry] = []

    def change_models(self, **fields: Any) -> None:  # noqa: ANN401  of any field's type
        """Change every model of the catalogue."""
        changed = tuple(msgspec.structs.replace(model, **fields) for model in self.settings.models)
        self.settings = msgspec.structs.replace(self.settings, models=changed)

    async def run(self, ticket: Ticket) -> bool:
        """Claim a generation and make one attempt at it; return whether a next turn moved up."""
        claimed = await self._front.claim(ticket)
        self.brake = Brake()
        return await pipeline.run(self._tools(), claimed, self.brake)

    def begin(self, ticket: Ticket) -> "asyncio.Task[bool]":
        """Begin an attempt beside the test."""
        return asyncio.create_task(self.run(ticket))

    async def pulled(self, ticket: Ticket, why: StopReason) -> bool:
        """Make an attempt whose brake was pulled before it began."""
        claimed = await self._front.claim(ticket)
        self.brake = Brake()
        self.brake.pull(why)
        return await pipeline.run(self._tools(), claimed, self.brake)

    async def ended(self, message: str = "hello", **wish: Any) -> Generation:  # noqa: ANN401
        """Submit a message, make one attempt, and return the generation, which must have ended."""
        ticket = await self._front.submit(message, rings=False, **wish)
        await self.run(ticket)
        found = await self._front.look(ticket)
        assert found.is_final, found.stage
        return found

    async def close(self) -> None:
        """Let go of the upstreams."""
        for registry in self._registries:
            await registry.close()

    def _tools(self) -> Tools:
        registry = Registry(self.settings, {})
        self._registries.append(registry)
        return Tools(
            settings=self.settings, redis=self.redis, clock=SystemClock(), registry=registry
        )
