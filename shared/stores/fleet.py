"""The live workers: who reports, what they serve, how much room there is.

A worker writes its own report, by Redis' clock; it is among the living for three seconds.
"""

from typing import Final, NamedTuple

from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import FleetAsk, ReportAsk
from shared.settings import ModelSettings, ProviderSettings, RedisSettings
from shared.wire.fleet import WorkerReport, decode, encode

_ALIVE_MS: Final = 3_000
_FORGET_MS: Final = 60_000


class Fleet(NamedTuple):
    """What the live workers can do together."""

    workers: int = 0
    slots: int = 0
    models: frozenset[str] = frozenset()
    ever_served: frozenset[str] = frozenset()

    def offers(self, model: ModelSettings, provider: ProviderSettings) -> bool:
        """Return whether a model is to be had at all: a worker had its key, or it needs none."""
        return provider.api_key_env is None or model.identifier in self.ever_served


async def report(redis: Connection, settings: RedisSettings, pulse: WorkerReport) -> int:
    """Write a worker's pulse and the models it serves; return how many workers live."""
    return await functions.report(
        redis, keys.system_root(settings), _ask(pulse.id, pulse.models), encode(pulse)
    )


async def leave(redis: Connection, settings: RedisSettings, worker: str) -> None:
    """Take a worker's pulse back, as it drains."""
    await functions.report(redis, keys.system_root(settings), _ask(worker, ()), b"")


async def view(redis: Connection, settings: RedisSettings) -> Fleet:
    """Return what the workers that reported within the last three seconds can do."""
    ask = FleetAsk(alive_ms=_ALIVE_MS)
    served, pulses = await functions.fleet(redis, keys.system_root(settings), ask)
    alive = [decode(pulse) for pulse in pulses]
    return Fleet(
        workers=len(alive),
        slots=sum(pulse.concurrency for pulse in alive),
        models=frozenset(model for pulse in alive for model in pulse.models),
        ever_served=frozenset(served),
    )


def _ask(worker: str, models: tuple[str, ...]) -> ReportAsk:
    return ReportAsk(worker=worker, models=models, alive_ms=_ALIVE_MS, forget_ms=_FORGET_MS)
