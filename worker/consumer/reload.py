"""Replaces the catalogue of a running worker, on SIGHUP.

Owns the change from one registry to the next. Refuses to disturb running attempts: each ends with
the dependencies it started with, and connections that are no longer needed are closed after it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from shared.catalogue import Catalogue
from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.telemetry import logs
from worker.providers.registry import Registry
from worker.run import Dependencies


class CatalogueReload:
    """Replaces `ctx["dependencies"]`, which every attempt takes when it starts."""

    def __init__(
        self,
        ctx: dict[str, Any],
        environment: Mapping[str, str],
        attempts: Callable[[], set[asyncio.Task[object]]],
    ) -> None:
        self._ctx = ctx
        self._environment = environment
        self._attempts = attempts
        self._closing: set[asyncio.Task[None]] = set()

    def reload(self) -> None:
        """Read the catalogue again; a faulty one is logged and changes nothing."""
        dependencies: Dependencies = self._ctx["dependencies"]
        try:
            catalogue = Catalogue.of(Settings.read(self._environment))
            registry = Registry(catalogue, self._environment, dependencies.registry)
        except ConfigurationError as error:
            logs.logger().error("the catalogue stays as it was", faults=error.faults)
            return
        self._ctx["dependencies"] = replace(
            dependencies,
            registry=registry,
            circuit_breaker=dependencies.circuit_breaker.with_registry(registry),
        )
        logs.logger().info("catalogue reloaded", models=sorted(registry.served))
        closing = asyncio.create_task(self._close_connections(dependencies.registry, registry))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close_connections(self, before: Registry, after: Registry) -> None:
        attempts = self._attempts()
        if attempts:
            await asyncio.wait(attempts)
        await before.close(but=after)

    async def close(self) -> None:
        """Wait until old connections are closed; call it only when no attempt runs."""
        await asyncio.gather(*self._closing)
