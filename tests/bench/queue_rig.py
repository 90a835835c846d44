"""A queue without a front: a server, an account with credits, queued generations.

Generations are accepted as the front does it, each in a session of its own; the workers' only
provider is inside their process and answers at once. Every figure of a run is read from its
records.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared.clock import SystemClock
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import ModelSettings, ProviderSettings, RedisSettings, Settings, WorkerSettings
from shared.stores.accounts import Accounts
from tests.bench import contestants
from tests.bench.contestants import Contestant
from tests.support import processes
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server

_CREDITS: Final = 10**15
_PLENTY: Final = 1_000_000_000
_HOLD: Final = 30_000
_DEADLINE_MS: Final = 900_000
_AT_ONCE: Final = 100
_GIVE_UP_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.02


class Done(NamedTuple):
    """What the records say: generations ended, seconds from first claim to last settlement."""

    generations: int
    seconds: float
    attempts: int

    @property
    def per_second(self) -> float:
        """The rate."""
        return self.generations / self.seconds


@dataclass(frozen=True, kw_only=True)
class QueueRig:
    """What a bench uses."""

    server: Server
    settings: Settings
    redis: Redis
    queue: RedisFunctions
    account: str
    contestant: Contestant

    async def accept(self) -> None:
        """Accept a generation in a session of its own."""
        await accept(self.queue, self.account)

    async def fill(self, generations: int) -> None:
        """Accept `generations` generations."""
        for first in range(0, generations, _AT_ONCE):
            count = min(_AT_ONCE, generations - first)
            await asyncio.gather(*(self.accept() for _ in range(count)))

    async def unfinished(self) -> int:
        """Return how many generations are unfinished."""
        where = keys.UNFINISHED(self.queue.root, self.account, "interactive")
        return int(await self.redis.call("ZCARD", where))

    async def leases(self) -> int:
        """Return how many generations are leased."""
        return int(await self.redis.call("ZCARD", keys.LEASES(self.queue.root)))

    async def drained(self) -> int:
        """Wait until nothing is unfinished; return how many commands that took."""
        clock = SystemClock()
        ends, asked = clock.monotonic() + _GIVE_UP_SECONDS, 1
        while left := await self.unfinished():
            assert clock.monotonic() < ends, f"{left} generations are still unfinished"
            await clock.sleep(_PAUSE_SECONDS)
            asked += 1
        return asked

    def done(self) -> Done:
        """Read the records; every generation must have completed."""
        with self.server.raw_client() as raw_client:
            names = raw_client.names(keys.GENERATION(self.queue.root, self.account, "*"))
            wanted = ("stage", "started", "finished", "attempt")
            records = raw_client.all([("HMGET", name, *wanted) for name in names])
        assert {stage for stage, *_ in records} == {b"completed"}
        numbers = [tuple(map(int, rest)) for _, *rest in records]
        began = min(started for started, _, _ in numbers)
        ended = max(finished for _, finished, _ in numbers)
        attempts = sum(attempt for _, _, attempt in numbers)
        return Done(len(numbers), max(1, ended - began) / 1000, attempts)


@asynccontextmanager
async def running_rig(
    *, concurrency: int = 16, is_durable: bool = False
) -> AsyncIterator[QueueRig]:
    """Start a server with an account; end it with the block. `is_durable`: it syncs each write."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(appendfsync="always" if is_durable else "no"))
        settings = _settings(server, concurrency, is_durable=is_durable)
        redis = Redis(settings.redis)
        stack.push_async_callback(redis.close)
        await library.load(redis)
        accounts = Accounts(redis, settings.redis, b"", SystemClock())
        account = await accounts.create("bench", "enterprise")
        await accounts.grant(account, _CREDITS)
        environment = processes.environment(settings, server.folder)
        yield QueueRig(
            server=server,
            settings=settings,
            redis=redis,
            queue=RedisFunctions(redis, settings.redis, account.partition),
            account=account.id,
            contestant=contestants.ours(environment),
        )


async def accept(queue: RedisFunctions, account: str) -> str:
    """Accept a generation in a session of its own, with a hold and without limits.

    Return its id.
    """
    ticket = await queue.submit(
        account,
        hold=_HOLD,
        deadline_ms=_DEADLINE_MS,
        per_minute=_PLENTY,
        unfinished_max=_PLENTY,
        total_max=_PLENTY,
    )
    return ticket.id


def _settings(server: Server, concurrency: int, *, is_durable: bool) -> Settings:
    return Settings(
        redis=RedisSettings(url=server.url, durability="fsync" if is_durable else "process"),
        worker=WorkerSettings(concurrency=concurrency),
        providers=(ProviderSettings(name="bench", base_url="http://127.0.0.1:9"),),
        models=(
            ModelSettings(
                identifier="noop",
                provider="bench",
                upstream="noop",
                context_window=32_768,
                max_output_tokens=2_048,
                input_rate=0.5,
                output_rate=1.5,
            ),
        ),
    )
