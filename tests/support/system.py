"""A whole system: fronts and workers inside the test's own loop or as processes, and accounts.

Owns a catalogue over the scripted upstream, settings with short times, a clock that a test can
advance, and the order in which all of it ends. Log lines are kept in `lines`; a warning or error
fails the test unless its event is in `expected`.

DESIGN. In the test's own loop a front consists of the same parts as in production (the application,
the HTTP protocol, uvicorn), except for uvicorn's loop of 0.1 s ticks and its signal handlers; a
worker is the whole worker. A test that kills one starts it as a process.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec
import pytest
import uvicorn
from structlog.testing import capture_logs

from api.app import DIALECTS, build
from api.endpoints import dialect
from api.endpoints.dialect import Dialect
from api.server.protocol import protocol
from shared.clock import Clock, SystemClock
from shared.redis import library
from shared.redis.client import Redis
from shared.settings import (
    MediaSettings,
    ModelSettings,
    ProviderSettings,
    RedisSettings,
    Settings,
    WorkerSettings,
)
from shared.stores.accounts import Accounts, NewKey
from shared.telemetry import logs
from shared.tiers import TierName
from shared.wire.account import DEFAULT_SCOPES, MICROCREDITS_PER_CREDIT, Account, Scope
from tests.support import api_client, processes, waiting
from tests.support.api_client import ApiClient
from tests.support.clocks import AdjustableClock
from tests.support.processes import Process
from tests.support.scripted_provider import ScriptedProvider
from worker.consumer.arq_worker import PolluxWorker

# How long a program may take to start on a machine that is busy with other tests.
_START_SECONDS: Final = 30.0
_LOUD: Final = ("warning", "error", "critical")


def catalogue(provider_url: str) -> dict[str, Any]:
    """Return two models over the scripted upstream, and a third whose provider has no key here."""
    return {
        "providers": (
            ProviderSettings(name="scripted", label="Scripted", base_url=provider_url),
            ProviderSettings(name="keyless", base_url=provider_url, api_key_env="NO_SUCH_KEY"),
        ),
        "models": (
            ModelSettings(
                identifier="alpha",
                provider="scripted",
                upstream="upstream-alpha",
                name="Alpha",
                aliases=("gpt-4o",),
                summary="The first.",
                recommended=True,
                capabilities=("json",),
                strengths={"general": 0.7, "code": 0.9},
                context_window=4096,
                max_output_tokens=256,
                input_rate=1.0,
                output_rate=2.0,
                estimated_duration_seconds=2.0,
            ),
            ModelSettings(
                identifier="beta",
                provider="scripted",
                upstream="upstream-beta",
                context_window=512,
                max_output_tokens=64,
                input_rate=3.0,
                output_rate=4.0,
            ),
            ModelSettings(
                identifier="gamma",
                provider="keyless",
                upstream="upstream-gamma",
                context_window=256,
                max_output_tokens=32,
            ),
        ),
    }


class System:
    """One deployment. An asynchronous context manager: leaving it ends everything it started."""

    def __init__(self, redis: RedisSettings, provider: ScriptedProvider, folder: Path) -> None:
        self.provider = provider
        self.clock = AdjustableClock()
        self.lines: list[Any] = []
        # Lines that a provider which fails by script causes.
        self.expected: set[str] = {"breaker opened", "provider throttled", "dead letter"}
        self.url = ""
        self.settings = Settings(
            redis=redis,
            worker=WorkerSettings(
                concurrency=32,
                lease_seconds=2.0,
                beat_seconds=0.05,
                reap_seconds=0.05,
                grace_seconds=0.05,
                flush_seconds=0.005,
            ),
            media=MediaSettings(folder=str(folder / "media")),
            **catalogue(provider.url),
        )
        self._folder = folder
        self._stack = AsyncExitStack()
        self.workers: list[PolluxWorker] = []
        self._workers: dict[str, AsyncExitStack] = {}
        self._fronts: dict[str, AsyncExitStack] = {}
        self.redis = Redis(redis)
        self.accounts = Accounts(self.redis, redis, b"", self.clock)

    async def __aenter__(self) -> Self:
        self.lines = self._stack.enter_context(_logs())
        self._stack.push_async_callback(self.redis.close)
        await library.load(self.redis)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        loud_lines = [line for line in self.lines if line["log_level"] in _LOUD]
        unexpected = [line for line in loud_lines if line["event"] not in self.expected]
        assert not unexpected, unexpected

    def change(self, section: str, **fields: object) -> None:
        """Change settings of what is started later: `change("api", wait_seconds_max=1)`."""
        changed = msgspec.structs.replace(getattr(self.settings, section), **fields)
        self.settings = msgspec.structs.replace(self.settings, **{section: changed})

    def change_tier(self, name: TierName, **fields: object) -> None:
        """Change the limits of a tier: `change_tier("free", waits_max=1)`."""
        tier = msgspec.structs.replace(self.settings.limits.of(name), **fields)
        self.change("limits", **{name: tier})

    # Fronts and workers in this loop

    async def front(
        self, clock: Clock | None = None, dialects: Sequence[Dialect] = DIALECTS
    ) -> str:
        """Start a front and return its URL; clients call the first one."""
        own_stack = AsyncExitStack()
        serving = _running_front(self.settings, clock or self.clock, _listener(), dialects=dialects)
        url = await own_stack.enter_async_context(serving)
        self._fronts[url] = own_stack
        self._stack.push_async_callback(own_stack.aclose)
        self.url = self.url or url
        return url

    async def front_with_admin_port(self) -> str:
        """Start a front with an admin port, and return the URL of that port."""
        own_stack, admin_listener = AsyncExitStack(), _listener()
        serving = _running_front(self.settings, self.clock, _listener(), admin_listener)
        self.url = await own_stack.enter_async_context(serving)
        self._fronts[self.url] = own_stack
        self._stack.push_async_callback(own_stack.aclose)
        return _url(admin_listener)

    async def stop_front(self, url: str) -> None:
        """Shut a front down, as on SIGTERM."""
        await self._fronts[url].aclose()

    def change_model(self, identifier: str, **changes: object) -> None:
        """Change fields of a model, for the processes that start from now on."""
        models = tuple(
            msgspec.structs.replace(model, **changes) if model.identifier == identifier else model
            for model in self.settings.models
        )
        self.settings = msgspec.structs.replace(self.settings, models=models)

    async def worker(self) -> PolluxWorker:
        """Start a worker and return once it claims."""
        own_stack = AsyncExitStack()
        worker = await own_stack.enter_async_context(_running_worker(self.settings))
        self.workers.append(worker)
        self._workers[worker.id] = own_stack
        self._stack.push_async_callback(own_stack.aclose)
        return worker

    async def stop(self, worker: PolluxWorker) -> None:
        """Shut a worker down, as on SIGTERM."""
        await self._workers[worker.id].aclose()

    # Fronts and workers as processes

    async def spawn_front(self, *words: str) -> Process:
        """Start a front as a process, with further arguments, and return once it is ready."""
        port = processes.free_port()
        spawned = self._spawn("api", "--port", str(port), *words)
        self.url = f"http://127.0.0.1:{port}"
        async with api_client.connected(self.url, {}) as prober:

            async def is_ready() -> bool:
                try:
                    return (await prober.get("/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await waiting.until(is_ready, _START_SECONDS, what="the front")
        return spawned

    async def spawn_worker(self, *words: str) -> Process:
        """Start a worker as a process (another module, if named) and return once it is ready."""
        spawned = self._spawn(*(words or ("worker",)))
        await spawned.wait_for_line("worker ready")
        return spawned

    def _spawn(self, *words: str) -> Process:
        log = self._folder / f"log{len(list(self._folder.iterdir()))}"
        environment = processes.environment(self.settings, self._folder)
        return self._stack.enter_context(Process(list(words), environment, log))

    # Accounts and their clients

    async def account(
        self, name: str = "one", *, tier: TierName = "enterprise", funds: float = 1000.0
    ) -> Account:
        """Create an account with credits, or return the existing one unchanged."""
        known = await self.accounts.find(name)
        if known is not None:
            return known
        account = await self.accounts.create(name, tier)
        if funds:
            await self.accounts.grant(account, round(funds * MICROCREDITS_PER_CREDIT))
        return account

    async def key(
        self,
        account: Account | None = None,
        *,
        scopes: tuple[Scope, ...] = DEFAULT_SCOPES,
        expires_ms: int | None = None,
    ) -> NewKey:
        """Create an API key."""
        owner = account or await self.account()
        return await self.accounts.create_key(owner, scopes, expires_ms=expires_ms)

    async def customer(
        self,
        name: str = "one",
        *,
        tier: TierName = "enterprise",
        funds: float = 1000.0,
        scopes: tuple[Scope, ...] = DEFAULT_SCOPES,
    ) -> ApiClient:
        """Return a client with a new key of the account."""
        account = await self.account(name, tier=tier, funds=funds)
        return await self.caller({"x-api-key": (await self.key(account, scopes=scopes)).key})

    async def caller(self, headers: dict[str, str], url: str | None = None) -> ApiClient:
        """Return a client that sends these headers with each request, to the front or that URL."""
        connected = api_client.connected(url or self.url, headers)
        return await self._stack.enter_async_context(connected)


def _listener() -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets whose protocol is given.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def _running_front(
    settings: Settings,
    clock: Clock,
    listener: socket.socket,
    admin_listener: socket.socket | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
) -> AsyncIterator[str]:
    with listener, admin_listener or nullcontext():
        admin_port = admin_listener.getsockname()[1] if admin_listener is not None else None
        config = uvicorn.Config(
            build(settings, {}, clock, admin_port, dialects),
            http=protocol(settings.api, admin_port, dialect.error_shapes(dialects)),
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # The first tick sets default headers such as Date.
        await server.on_tick(0)
        await server.startup(
            sockets=[each for each in (listener, admin_listener) if each is not None]
        )
        try:
            yield _url(listener)
        finally:
            await _shut_down_front(server)


async def _shut_down_front(server: uvicorn.Server) -> None:
    state = server.server_state
    for listening in server.servers:
        listening.close()
    for connection in list(state.connections):
        connection.shutdown()
    await waiting.until(lambda: not state.connections and not state.tasks, what="the front's end")
    await server.lifespan.shutdown()


@asynccontextmanager
async def _running_worker(settings: Settings) -> AsyncIterator[PolluxWorker]:
    worker = PolluxWorker(settings, {}, SystemClock())
    running = asyncio.create_task(worker.async_run())
    try:
        await waiting.until(
            lambda: not worker.claims.is_more or running.done(), _START_SECONDS, what="the worker"
        )
        yield worker
    finally:
        worker.begin_drain()
        await running
        await worker.close()


@contextmanager
def _logs() -> Iterator[list[Any]]:
    with capture_logs(processors=[logs.add_context]) as lines:
        yield lines


# Fixtures: a folder's conftest.py names those that its tests use.


@pytest.fixture
async def system(
    redis_settings: RedisSettings, provider: ScriptedProvider, tmp_path: Path
) -> AsyncIterator[System]:
    """Return a deployment on the shared server; nothing runs yet."""
    async with System(redis_settings, provider, tmp_path) as deployment:
        yield deployment


@pytest.fixture
async def own_system(
    own_settings: RedisSettings, provider: ScriptedProvider, tmp_path: Path
) -> AsyncIterator[System]:
    """Return a deployment on a server of the test's own, which it may kill and pause."""
    async with System(own_settings, provider, tmp_path) as deployment:
        yield deployment


@pytest.fixture
async def api(system: System) -> ApiClient:
    """Return a client of a running front; without a worker nothing is answered."""
    await system.front()
    return await system.customer()


@pytest.fixture
async def worker(system: System) -> PolluxWorker:
    """Return a running worker."""
    return await system.worker()


@pytest.fixture
async def other(api: ApiClient, system: System) -> ApiClient:
    """Return a client of another account."""
    assert api
    return await system.customer("two")
