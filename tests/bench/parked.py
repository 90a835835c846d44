"""Turns that wait for a key or a provider's limit: how soon they go on, and what waiting costs.

pickup    three workers, one of which has the key: from the accept to the upstream call
gone      100 turns whose key no worker has: bytes of AOF and claims a second while they wait
limit     a backlog behind a provider's limit: claims and answers a second

`python -m tests.bench.parked` runs all three; `--workers FOLDER` uses the workers of another
checkout, which may be of another version.
"""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.clock import SystemClock
from shared.redis import functions, keys, library
from shared.redis.client import Redis
from shared.settings import ModelSettings, ProviderSettings, RedisSettings, Settings, WorkerSettings
from shared.wire.submission import Submission, encode
from tests.bench import figures
from tests.bench.figures import Figure
from tests.support import command_line, processes
from tests.support.redis_functions import RedisFunctions, Ticket
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.waiting import until

SAMPLES: Final = 100
GONE: Final = 100
BACKLOG: Final = 2_000
SECONDS: Final = 10.0
_KEY: Final = {"PARKED_BENCH_KEY": "secret"}
_ROOT: Final = Path(__file__).parents[2]
_GAP_SECONDS: Final = (0.05, 0.25)
_DEADLINE_MS: Final = 3_600_000
_SETTLE_SECONDS: Final = 3.0
_PLENTY: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Rig:
    server: Server
    settings: Settings
    redis: Redis
    queue: RedisFunctions
    provider: ScriptedProvider
    folder: Path

    async def submit(self, account: str = "bench") -> Ticket:
        """Accept one message for the model that needs the key."""
        ticket = Ticket(account, f"s{random.getrandbits(64)}", f"g{random.getrandbits(64)}")
        ask = functions.AcceptAsk(
            account=account,
            key="k",
            generation=ticket.id,
            session=ticket.session,
            is_new=True,
            message=ticket.id,
            content=ticket.id,
            lane="interactive",
            wire=1,
            model="keyed",
            hold=0,
            deadline_ms=_DEADLINE_MS,
            per_minute=_PLENTY,
            unfinished_max=_PLENTY,
            waiting_max=_PLENTY,
            running_max=_PLENTY,
            stride=1_000,
            total_max=_PLENTY,
            slots=0,
            rounds_max=0,
            sessions_max=_PLENTY,
            stored_bytes_max=_PLENTY,
            name="bench",
        )
        submission = encode(Submission(session=ticket.session, model="keyed"))
        await functions.accept(self.redis, self.queue.root, ask, submission)
        return ticket

    def claims(self) -> int:
        """Return how many claims there were."""
        with self.server.raw_client() as raw_client:
            names = raw_client.names(keys.GENERATION(self.queue.root, "bench", "*"))
            found = raw_client.all([("HGET", name, "attempt") for name in names])
        return sum(int(attempt) for attempt in found)

    def written(self) -> int:
        """Return how many bytes the server has appended to its log."""
        with self.server.raw_client() as raw_client:
            info: dict[str, int] = raw_client("INFO", "persistence")
        return int(info["aof_current_size"])


@asynccontextmanager
async def _running(
    folder: Path, keyed: int, others: int, per_minute: int | None = None
) -> AsyncIterator[_Rig]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(appendfsync="no"))
        provider = await stack.enter_async_context(ScriptedProvider())
        provider.answer = lambda _: ScriptedAnswer(text="Two")
        settings = _settings(server, provider, per_minute)
        redis = Redis(settings.redis)
        stack.push_async_callback(redis.close)
        await library.load(redis)
        environment = processes.environment(settings, server.folder)
        for extra in [_KEY] * keyed + [{}] * others:
            stack.enter_context(_worker(folder, server, environment | extra))
        await until(lambda: server.blocked_clients() >= keyed + others, 60, what="the workers")
        await SystemClock().sleep(_SETTLE_SECONDS)
        queue = RedisFunctions(redis, settings.redis)
        yield _Rig(
            server=server,
            settings=settings,
            redis=redis,
            queue=queue,
            provider=provider,
            folder=folder,
        )


@contextmanager
def _worker(folder: Path, server: Server, environment: dict[str, str]) -> Iterator[None]:
    """Run a worker of a checkout until the end of the block."""
    words = [sys.executable, "-m", "worker"]
    with (server.folder / "workers.log").open("ab") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stderr=log, stdout=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _settings(server: Server, provider: ScriptedProvider, per_minute: int | None) -> Settings:
    model = ModelSettings(
        identifier="keyed",
        provider="keyed",
        upstream="keyed",
        context_window=32_768,
        max_output_tokens=64,
        input_rate=0.5,
        output_rate=1.5,
    )
    return Settings(
        redis=RedisSettings(url=server.url),
        worker=WorkerSettings(concurrency=16),
        providers=(
            ProviderSettings(
                name="keyed",
                base_url=f"{provider.url}/v1",
                api_key_env="PARKED_BENCH_KEY",
                requests_per_minute=per_minute,
            ),
        ),
        models=(model,),
    )


async def pickup(folder: Path, samples: int = SAMPLES) -> list[Figure]:
    """Measure from the accept to the upstream call."""
    clock, taken = SystemClock(), []
    async with _running(folder, 1, 2) as rig:
        for _ in range(samples):
            await clock.sleep(random.uniform(*_GAP_SECONDS))
            rig.provider.requests.clear()
            began = clock.monotonic()
            await rig.submit()
            await until(lambda: bool(rig.provider.requests), 30, what="a call")
            taken.append(rig.provider.requests[0].came_at - began)
    return [
        Figure(f"accept to call, {name}, one of three has the key", f"{ms * 1000:.1f} ms")
        for name, ms in (
            ("p50", figures.quantile(taken, 0.5)),
            ("p95", figures.quantile(taken, 0.95)),
        )
    ]


async def gone(folder: Path, turns: int = GONE, seconds: float = SECONDS) -> list[Figure]:
    """Measure what turns cost that no worker can serve."""
    async with _running(folder, 0, 3) as rig:
        await SystemClock().sleep(_SETTLE_SECONDS)
        idle_from = rig.written()
        await SystemClock().sleep(seconds)
        idle = rig.written() - idle_from
        for _ in range(turns):
            await rig.submit()
        await SystemClock().sleep(_SETTLE_SECONDS)
        written, claims = rig.written(), rig.claims()
        await SystemClock().sleep(seconds)
        bytes_ = (rig.written() - written - idle) / seconds
        claimed = (rig.claims() - claims) / seconds
    return [
        Figure(f"AOF for {turns} turns whose key is gone", f"{bytes_ / 1000:.1f} kB/s"),
        Figure(f"claims for {turns} turns whose key is gone", f"{claimed:.1f} a second"),
    ]


async def limit(
    folder: Path, backlog: int = BACKLOG, seconds: float = SECONDS, per_minute: int = 30
) -> list[Figure]:
    """Measure how often a backlog is claimed for the answers that a limit allows."""
    async with _running(folder, 3, 0, per_minute=per_minute) as rig:
        for _ in range(backlog):
            await rig.submit()
        await SystemClock().sleep(seconds)
        claims, answers = rig.claims(), len(rig.provider.requests)
        await SystemClock().sleep(3 * seconds)
        claimed = (rig.claims() - claims) / (3 * seconds)
        answered = (len(rig.provider.requests) - answers) / (3 * seconds)
    return [
        Figure(
            f"backlog of {backlog:,} behind {per_minute} requests a minute",
            f"{claimed:.2f} claims a second",
            f"{answered:.2f} answers a second",
        )
    ]


async def measure(folder: Path = _ROOT) -> list[Figure]:
    """Run all three."""
    return [*await pickup(folder), *await gone(folder), *await limit(folder)]


async def report(folder: Path) -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"parked (workers of {folder.name})", await measure(folder)))


if __name__ == "__main__":
    parser = command_line.parser("tests.bench.parked", __doc__)
    parser.add_argument("--workers", type=Path, default=_ROOT, help="folder of a checkout")
    figures.print_line(figures.machine())
    asyncio.run(report(parser.parse_args().workers))
