"""A deployment for failures: a server, one front and two workers as real processes.

Owns their start and their end, and what they logged. The upstream answers as the words of a message
say. For failures of the network a proxy stands before the server.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec

from shared.clock import SystemClock
from shared.redis import library
from shared.redis.client import Redis
from shared.settings import RedisSettings, Settings, WorkerSettings
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES
from tests.chaos.scene import settings_of
from tests.support import processes, redis_invariants, waiting
from tests.support.api_client import NO_TLS
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.redis_server import Kind, Server
from tests.support.scripted_provider import ScriptedProvider

WORKERS: Final = 2
_CREDITS: Final = 10**12
_CRASHES_MAX: Final = 3
_START_SECONDS: Final = 60.0
_PING_SECONDS: Final = 1.0
# No longer than clients ask to wait: anything longer is caused by Redis.
_WAIT_SECONDS_MAX: Final = 1
_LOUD: Final = frozenset({"warning", "error", "critical"})


@dataclass(frozen=True, kw_only=True)
class FailureDeployment:
    """The parts. `members` are the processes of the front and the workers, by name."""

    server: Server
    proxy: Proxy
    provider: ScriptedProvider
    settings: Settings
    accounts: Accounts
    members: dict[str, Process]
    url: str

    async def open(self, name: str) -> dict[str, str]:
        """Create an account with credits; return the headers with its API key."""
        account = await self.accounts.create(name, "enterprise")
        await self.accounts.grant(account, _CREDITS)
        key = await self.accounts.create_key(account, DEFAULT_SCOPES)
        return {"x-api-key": key.key}

    def ended(self) -> list[str]:
        """Return the names of processes that have ended."""
        return [name for name, member in self.members.items() if not member.is_running]

    def faults(self) -> list[str]:
        """Return the invariants that do not hold in Redis."""
        with self.server.raw_client() as raw_client:
            return redis_invariants.faults(raw_client, self.settings.redis)

    @contextmanager
    def loud_lines(self) -> Iterator["Counter[str]"]:
        """Count the warnings and errors logged within the block, once it has ended."""
        loud_events: Counter[str] = Counter()
        before = {name: len(member.lines()) for name, member in self.members.items()}
        yield loud_events
        for name, member in self.members.items():
            for line in member.lines()[before[name] :]:
                if line["level"] in _LOUD:
                    loud_events[str(line["event"])] += 1


@asynccontextmanager
async def running_scene(
    kind: Kind = "valkey", *, is_behind_proxy: bool = False, timeout_seconds: float = 5.0
) -> AsyncIterator[FailureDeployment]:
    """Start everything; the end of the block ends it."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(kind))
        proxy = await stack.enter_async_context(Proxy(server.socket))
        provider = await stack.enter_async_context(ScriptedProvider())
        url = proxy.url if is_behind_proxy else server.url
        settings = _settings(RedisSettings(url=url, timeout_seconds=timeout_seconds), provider.url)
        redis = Redis(msgspec.structs.replace(settings.redis, url=server.url))
        stack.push_async_callback(redis.close)
        await library.load(redis)
        port = processes.free_port()
        words = {"front": ["api", "--port", str(port)]} | {
            f"worker {n + 1}": ["worker"] for n in range(WORKERS)
        }
        environment = processes.environment(settings, server.folder)
        members = {
            name: stack.enter_context(Process(each, environment, _log(server.folder, name)))
            for name, each in words.items()
        }
        deployment = FailureDeployment(
            server=server,
            proxy=proxy,
            provider=provider,
            settings=settings,
            accounts=Accounts(redis, settings.redis, b"", SystemClock()),
            members=members,
            url=f"http://127.0.0.1:{port}",
        )
        await _started(deployment)
        yield deployment


def _settings(redis: RedisSettings, upstream: str) -> Settings:
    """Return settings without limits for clients; workers are as in production."""
    settings = settings_of(redis, upstream, WorkerSettings())
    return msgspec.structs.replace(
        settings,
        api=msgspec.structs.replace(
            settings.api, ping_seconds=_PING_SECONDS, wait_seconds_max=_WAIT_SECONDS_MAX
        ),
        worker=msgspec.structs.replace(settings.worker, crashes_max=_CRASHES_MAX),
    )


def _log(folder: Path, name: str) -> Path:
    return folder / f"log of {name}"


async def _started(deployment: FailureDeployment) -> None:
    async with httpx.AsyncClient(base_url=deployment.url, verify=NO_TLS, trust_env=False) as http:

        async def is_up() -> bool:
            assert not deployment.ended(), [member.text() for member in deployment.members.values()]
            with suppress(httpx.TransportError):
                return (await http.get("/readyz")).status_code == httpx.codes.OK
            return False

        await waiting.until(is_up, _START_SECONDS, what="the front")
    for name, member in deployment.members.items():
        if name != "front":
            await member.wait_for_line("worker ready")


async def cpu_seconds(deployment: FailureDeployment) -> dict[str, float]:
    """Return the CPU time that each process has used so far."""
    return await asyncio.to_thread(
        lambda: {name: member.cpu_seconds() for name, member in deployment.members.items()}
    )
