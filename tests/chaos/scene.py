"""What a run needs: a server, an upstream that answers at a pace, settings, and a worker pool.

Owns their settings, their start and their end. The upstream repeats the question, numbers its
words, and notes each call in the evidence.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import (
    ApiSettings,
    Durability,
    ModelSettings,
    ProviderSettings,
    RedisSettings,
    RetentionSettings,
    Settings,
    WorkerSettings,
)
from shared.tiers import LimitSettings, Tier
from tests.chaos.evidence import Evidence
from tests.chaos.tool_rounds import calls_of
from tests.chaos.worker_pool import WorkerPool
from tests.support import processes
from tests.support.redis_server import Appendfsync, Server
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider

_PLENTY: Final = 1_000_000
# No generation is given up after crashes, so a failed one is never the run's own doing.
CRASHES_MAX: Final = 1_000
APPENDFSYNC: Final[dict[Durability, Appendfsync]] = {
    "process": "no",
    "everysec": "everysec",
    "fsync": "always",
}

Pace = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The parts of a run, and its evidence."""

    server: Server
    provider: ScriptedProvider
    settings: Settings
    environment: dict[str, str]
    redis: Redis
    pool: WorkerPool
    evidence: Evidence

    @property
    def root(self) -> str:
        """The root of the one partition."""
        return keys.partition_root(self.settings.redis, 0)

    def worker_log(self) -> str:
        """Return the log of the workers."""
        return self.pool.log.read_text()


class Upstream:
    """The script of the upstream: the question, then `words` numbered words at a pace."""

    def __init__(self, evidence: Evidence, seed: int, words: tuple[int, int], pace: Pace) -> None:
        self._evidence = evidence
        self._chance = random.Random(seed)
        self._words = words
        self._pace = pace

    def answer(self, request: Request) -> ScriptedAnswer:
        """Note the call and return its answer; calls of tools come first, and are not noted."""
        calls = calls_of(request)
        if calls is not None:
            return calls
        user_messages = [
            str(each["content"]) for each in request.messages if each["role"] == "user"
        ]
        upstream_call = self._evidence.note_upstream_call(
            user_messages, self._chance.randint(*self._words)
        )
        return ScriptedAnswer(
            text=upstream_call.answer, gap_seconds=self._chance.uniform(*self._pace)
        )


def settings_of(
    redis: RedisSettings, upstream: str, worker: WorkerSettings, crashes_max: int = CRASHES_MAX
) -> Settings:
    """Return settings without limits for clients, with one model that has a price."""
    return Settings(
        redis=redis,
        api=ApiSettings(reads_per_minute=_PLENTY, waits_per_account=_PLENTY),
        worker=msgspec.structs.replace(worker, crashes_max=crashes_max),
        limits=LimitSettings(
            enterprise=Tier(
                submissions_per_minute=_PLENTY, unfinished_max=_PLENTY, running_max=_PLENTY
            )
        ),
        retention=RetentionSettings(events_seconds=3_600),
        providers=(ProviderSettings(name="scripted", base_url=upstream),),
        models=(
            ModelSettings(
                identifier="alpha",
                provider="scripted",
                upstream="alpha",
                context_window=32_768,
                max_output_tokens=512,
                input_rate=1.0,
                output_rate=2.0,
                capabilities=("tools",),
                # The upstream answers at once, so a call that hangs is given up soon.
                first_token_seconds=8.0,
            ),
        ),
    )


@asynccontextmanager
async def running_scene(
    worker: WorkerSettings,
    *,
    seed: int = 0,
    words: tuple[int, int],
    pace: Pace,
    durability: Durability = "process",
    crashes_max: int = CRASHES_MAX,
) -> AsyncIterator[Scene]:
    """Start everything except workers and fronts; the end of the block ends it."""
    evidence = Evidence()
    with Server(appendfsync=APPENDFSYNC[durability], rewrites=True) as server:
        async with ScriptedProvider() as provider:
            provider.keeps_requests = False
            provider.answer = Upstream(evidence, seed, words, pace).answer
            redis_settings = RedisSettings(url=server.url, durability=durability)
            settings = settings_of(redis_settings, provider.url, worker, crashes_max)
            environment = processes.environment(settings, server.folder)
            environment["POLLUX_LOG__LEVEL"] = "warning"
            redis = Redis(settings.redis)
            try:
                await library.load(redis)
                async with WorkerPool(environment, server.folder / "workers") as pool:
                    yield Scene(
                        server=server,
                        provider=provider,
                        settings=settings,
                        environment=environment,
                        redis=redis,
                        pool=pool,
                        evidence=evidence,
                    )
            finally:
                await redis.close()
