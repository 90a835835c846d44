"""A run: what is started, which clients and faults there are, and what is checked at the end.

Two fronts and two workers live through the whole run and are measured; the other workers may be
killed. Redis syncs each write (`fsync`), so that every loss is a fault.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec

from shared.clock import SystemClock
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import (
    ApiSettings,
    RedisSettings,
    RetentionSettings,
    Settings,
    WorkerSettings,
)
from shared.stores.accounts import Accounts
from shared.tiers import LimitSettings, Tier
from shared.wire.account import DEFAULT_SCOPES
from tests.chaos import records
from tests.chaos.worker_pool import WorkerPool
from tests.soak import process_probe, upstream
from tests.soak.clients import SoakClients
from tests.soak.fault_schedule import FaultSchedule
from tests.soak.gauges import Gauges, WatchedProcess
from tests.soak.upstream import Upstream
from tests.support import processes, redis_invariants, waiting
from tests.support.processes import Process
from tests.support.redis_server import RawClient, Server
from tests.support.scripted_provider import ScriptedProvider

_PLENTY: Final = 1_000_000
_CREDITS: Final = 10**12
_ACCOUNTS: Final = ("ann", "bob", "cem", "dee", "eva")
_FRONTS: Final = 2
_READY_SECONDS: Final = 30.0
_QUIET_SECONDS: Final = 120.0
_WORKER: Final = WorkerSettings(concurrency=16, grace_seconds=2.0)
# Families of a generation or a session: none is left once the last one has expired.
_EXPIRING: Final = (
    keys.GENERATION,
    keys.SUBMISSION,
    keys.TEXT,
    keys.EVENTS,
    keys.IDEMPOTENCY,
    keys.SESSION,
    keys.WAITING,
    keys.TURNS,
    keys.UNFINISHED,
    keys.READY,
    keys.LANE,
    keys.LEASES,
    keys.DEADLINES,
    keys.DEFERRED,
    keys.DEAD_LETTER,
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run; `scale` multiplies the durations of faults."""

    seconds: float = 1_800.0
    clients: int = 40
    pause_seconds: float = 10.0
    measure_seconds: float = 2.0
    keep_seconds: int = 30
    lasting_workers: int = 2
    killable_workers: int = 2
    scale: float = 1.0
    seed: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The results. `marks` are the seconds at which faults began; `series` are of `Gauges`."""

    plan: Plan
    seconds: float
    ended: dict[str, int]
    refused: dict[int, int]
    injected: dict[str, int]
    marks: list[float]
    findings: list[str]
    series: dict[str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True, kw_only=True)
class SoakRun:
    """The parts of a run."""

    plan: Plan
    settings: Settings
    server: Server
    pool: WorkerPool
    fault_schedule: FaultSchedule
    soak_clients: SoakClients
    gauges: Gauges
    watched: Sequence[WatchedProcess]
    clock: SystemClock = field(default_factory=SystemClock)

    async def run_to_end(self) -> Report:
        """Run clients and faults, and check what is left."""
        began = self.clock.monotonic()
        tasks = [
            asyncio.create_task(self._watch(began)),
            asyncio.create_task(self.soak_clients.hold_conversations(self.plan.clients)),
        ]
        try:
            await self.fault_schedule.inject_faults(
                began + self.plan.seconds, self.plan.pause_seconds
            )
            self.soak_clients.is_over = True
            await tasks[1]
            seconds = self.clock.monotonic() - began
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._report(began, seconds, await self._find_left_over())

    async def _watch(self, began: float) -> None:
        """Measure until cancelled."""
        before, then = 0.0, 0
        while True:
            at = self.clock.monotonic() - began
            # In a thread, because a hanging server blocks the measurement.
            await asyncio.to_thread(self.gauges.measure, at, self.watched)
            now = self.soak_clients.ended.total()
            rate = (now - then) / max(at - before, 0.001)
            self.gauges.note("ended a second", "generations", at, rate)
            before, then = at, now
            await self.clock.sleep(self.plan.measure_seconds)

    async def _find_left_over(self) -> list[str]:
        """Terminate the killable workers, and return what should not be left."""
        await self.fault_schedule.stop_workers()
        found = [f"a worker ended with {code}" for code in self.pool.bad_exits]
        return [*found, *await asyncio.to_thread(_left_over, self.server, self.settings)]

    def _report(self, began: float, seconds: float, left: list[str]) -> Report:
        return Report(
            plan=self.plan,
            seconds=seconds,
            ended=dict(self.soak_clients.ended),
            refused=dict(self.soak_clients.refused),
            injected=dict(self.fault_schedule.injected),
            marks=[mark - began for mark in self.fault_schedule.marks],
            findings=[*self.soak_clients.findings, *left],
            series={panel: dict(lines) for panel, lines in self.gauges.series.items()},
        )


async def run(plan: Plan) -> Report:
    """Carry out a plan and return the results."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(appendfsync="always"))
        provider = await stack.enter_async_context(ScriptedProvider())
        scripted_upstream = Upstream(plan.seed)
        provider.keeps_requests, provider.answer = False, scripted_upstream.answer
        settings = _settings(plan, server.url, provider.url)
        environment = processes.environment(settings, server.folder)
        environment["POLLUX_LOG__LEVEL"] = "error"
        api_keys = await _open(settings)
        pool = await stack.enter_async_context(WorkerPool(environment, server.folder / "workers"))
        fronts = [
            await stack.enter_async_context(_front(environment, server.folder, f"front {number}"))
            for number in range(1, _FRONTS + 1)
        ]
        lasting_workers = [
            await _lasting_worker(pool, server.folder, f"worker {number}")
            for number in range(1, plan.lasting_workers + 1)
        ]
        whole_run = SoakRun(
            plan=plan,
            settings=settings,
            server=server,
            pool=pool,
            fault_schedule=FaultSchedule(
                server,
                pool,
                scripted_upstream,
                killable_workers=plan.killable_workers,
                seed=plan.seed,
                scale=plan.scale,
            ),
            soak_clients=SoakClients([url for url, _ in fronts], api_keys, plan.seed),
            gauges=Gauges(server, keys.partition_root(settings.redis, 0)),
            watched=[*(watched for _, watched in fronts), *lasting_workers],
        )
        return await whole_run.run_to_end()


def _settings(plan: Plan, redis_url: str, upstream_url: str) -> Settings:
    """Return settings without limits for clients that keep what has ended for a short while."""
    keep = plan.keep_seconds
    return Settings(
        redis=RedisSettings(url=redis_url, durability="fsync"),
        api=ApiSettings(reads_per_minute=_PLENTY, waits_per_account=_PLENTY),
        worker=_WORKER,
        limits=LimitSettings(
            enterprise=Tier(
                submissions_per_minute=_PLENTY, unfinished_max=_PLENTY, running_max=_PLENTY
            )
        ),
        retention=RetentionSettings(
            generation_seconds=keep,
            events_seconds=keep,
            idempotency_seconds=keep,
            dead_seconds=keep,
        ),
        providers=upstream.providers(upstream_url),
        models=upstream.models(),
    )


async def _open(settings: Settings) -> list[str]:
    """Create the accounts and return a key of each."""
    redis = Redis(settings.redis)
    try:
        await library.load(redis)
        accounts = Accounts(redis, settings.redis, b"", SystemClock())
        found = []
        for name in _ACCOUNTS:
            account = await accounts.create(name, "enterprise")
            await accounts.grant(account, _CREDITS)
            found.append((await accounts.create_key(account, DEFAULT_SCOPES)).key)
        return found
    finally:
        await redis.close()


@asynccontextmanager
async def _front(
    environment: dict[str, str], folder: Path, name: str
) -> AsyncIterator[tuple[str, WatchedProcess]]:
    """Run a front as a process, with a probe in it."""
    port, probe_file = processes.free_port(), folder / name
    url = f"http://127.0.0.1:{port}"
    words = [process_probe.__name__, str(probe_file), "api", "--port", str(port)]
    with Process(words, environment, folder / f"{name}.log") as process:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def is_ready() -> bool:
                with suppress(httpx.TransportError):
                    return (await client.get(f"{url}/healthz")).status_code == httpx.codes.OK
                return False

            await waiting.until(is_ready, _READY_SECONDS, what="the front")
        yield url, WatchedProcess(name, process.pid, probe_file)


async def _lasting_worker(pool: WorkerPool, folder: Path, name: str) -> WatchedProcess:
    """Start a worker that lives through the whole run, with a probe in it."""
    probe_file = folder / name
    child = await pool.until_ready(
        pool.fork_worker([(f"{process_probe.__name__}:plant", str(probe_file))])
    )
    return WatchedProcess(name, child.pid, probe_file)


def _left_over(server: Server, settings: Settings) -> list[str]:
    """Wait until expiring keys are gone, and return what should not be left then."""
    root = keys.partition_root(settings.redis, 0)
    patterns = [family(root, *("*" for _ in family.parts)) for family in _EXPIRING]

    def left(raw_client: RawClient) -> list[str]:
        return [name for pattern in patterns for name in raw_client.names(pattern)]

    with server.raw_client() as raw_client:
        with suppress(AssertionError):
            waiting.until_now(lambda: not left(raw_client), _QUIET_SECONDS, what="the end of keys")
        found = [f"{name} is left although nothing runs" for name in left(raw_client)]
        found += redis_invariants.faults(raw_client, settings.redis)
        for account in _ACCOUNTS:
            credit_totals = records.credit_totals(raw_client, settings.redis, account)
            if (
                credit_totals.get("held")
                or credit_totals["granted"] != credit_totals["balance"] + credit_totals["settled"]
            ):
                found.append(f"the credits of {account} do not add up: {credit_totals}")
    return found
