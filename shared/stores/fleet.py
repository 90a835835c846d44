"""The live workers: who reports, what they serve, how much room there is.

A worker writes its own report; whoever reads drops those that fell silent.
"""

import asyncio
from typing import Final, NamedTuple

from shared.redis import keys
from shared.redis.client import Connection
from shared.settings import ModelSettings, ProviderSettings, RedisSettings
from shared.wire.fleet import WorkerReport, decode, encode

ALIVE_MS: Final = 3_000
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


async def report(redis: Connection, settings: RedisSettings, pulse: WorkerReport) -> None:
    """Write a worker's pulse and the models it serves."""
    root = keys.system_root(settings)
    await redis.call("HSET", keys.WORKERS(root), pulse.id, encode(pulse))
    if pulse.models:
        scored: list[str | int] = [part for model in pulse.models for part in (pulse.at, model)]
        await redis.call("ZADD", keys.SERVED(root), *scored)


async def leave(redis: Connection, settings: RedisSettings, worker: str) -> None:
    """Take a worker's pulse back, as it drains."""
    await redis.call("HDEL", keys.WORKERS(keys.system_root(settings)), worker)


async def view(redis: Connection, settings: RedisSettings, now_ms: int) -> Fleet:
    """Return what the workers that reported within the last three seconds can do."""
    root = keys.system_root(settings)
    stored: dict[bytes, bytes]
    served: list[bytes]
    stored, served = await asyncio.gather(
        redis.call("HGETALL", keys.WORKERS(root)), redis.call("ZRANGE", keys.SERVED(root), 0, -1)
    )
    reports = [decode(record) for record in stored.values()]
    for silent in (pulse for pulse in reports if now_ms - pulse.at > _FORGET_MS):
        redis.send("HDEL", keys.WORKERS(root), silent.id)
    alive = [pulse for pulse in reports if now_ms - pulse.at <= ALIVE_MS]
    return Fleet(
        workers=len(alive),
        slots=sum(pulse.concurrency for pulse in alive),
        models=frozenset(model for pulse in alive for model in pulse.models),
        ever_served=frozenset(model.decode() for model in served),
    )
