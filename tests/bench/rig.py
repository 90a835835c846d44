"""A whole Pollux for a bench: server, scripted provider, API and workers as real processes.

Owns their start, their end, and one account with credits and a key. What it starts reads a sealed
environment: nothing of the operator's own settings gets in.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from shared.clock import SystemClock
from shared.redis import library
from shared.redis.client import Redis
from shared.settings import Settings
from shared.stores.accounts import Accounts
from shared.wire.account import Account
from tests.support.provider import Provider
from tests.support.server import Kind, Server
from tests.support.waiting import until

ROOT: Final = Path(__file__).parents[2]
_CREDITS: Final = 10**15
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 30.0
_UNBOUNDED: Final = {
    "POLLUX_LIMITS__ENTERPRISE__SUBMISSIONS_PER_MINUTE": "1000000000",
    "POLLUX_LIMITS__UNFINISHED_PER_ACCOUNT": "1000000000",
    "POLLUX_LIMITS__UNFINISHED_TOTAL": "1000000000",
    "POLLUX_API__READS_PER_MINUTE": "1000000000",
    "POLLUX_API__WAITS_PER_ACCOUNT": "100000",
}


@dataclass(frozen=True, kw_only=True)
class Rig:
    """What a bench may reach of the system it has started."""

    server: Server
    provider: Provider
    settings: Settings
    environment: Mapping[str, str]
    redis: Redis
    account: Account
    key: str
    url: str
    api: "subprocess.Popen[bytes]"
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        """Return a client that shows the key and holds as many connections as it is asked for."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"x-api-key": self.key},
            timeout=60.0,
            limits=limits,
            trust_env=False,
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a submission, for clients of other kinds."""
        return {"x-api-key": self.key, "content-type": "application/json"}


@asynccontextmanager
async def running(
    *,
    workers: int = 0,
    models: tuple[str, ...] = ("scripted",),
    overrides: Mapping[str, str] | None = None,
    upstream: str | None = None,
    kind: Kind = "valkey",
) -> AsyncIterator[Rig]:
    """Start everything, wait until it is ready, and end it all with the block.

    `models` share one provider: the scripted one, or the one at `upstream`.
    """
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(kind))
        provider = await stack.enter_async_context(Provider())
        catalogue = server.folder / "catalogue.toml"
        catalogue.write_text(_catalogue(upstream or provider.url, models), encoding="utf-8")
        port = free_port()
        environment = {
            "PATH": os.defpath,
            "REDIS_URL": server.url,
            "POLLUX_CONFIG": str(catalogue),
            **_UNBOUNDED,
            **(overrides or {}),
        }
        settings = Settings.read(environment)
        redis = Redis(settings.redis)
        stack.push_async_callback(redis.close)
        await library.load(redis)
        accounts = Accounts(redis, settings.redis, b"", SystemClock())
        account = await accounts.create("bench", "enterprise")
        await accounts.grant(account, _CREDITS)
        key = await accounts.create_key(account, ("chat", "read"))
        api = stack.enter_context(process(["api", "--port", str(port)], environment))
        rig = Rig(
            server=server,
            provider=provider,
            settings=settings,
            environment=environment,
            redis=redis,
            account=account,
            key=key.key,
            url=f"http://127.0.0.1:{port}",
            api=api,
        )
        for _ in range(workers):
            rig.workers.append(stack.enter_context(process(["worker"], environment)))
        await answers(f"{rig.url}/readyz", api)
        await _gather_workers(rig, workers)
        yield rig


async def _gather_workers(rig: Rig, workers: int) -> None:
    async with rig.client() as client:

        async def are_there() -> bool:
            listed = (await client.get("/api/v1/models")).json()["models"]
            pulses = await rig.redis.call("HLEN", f"{rig.settings.redis.prefix}:{{sys}}:workers")
            return pulses == workers and all(model["available"] for model in listed)

        if workers:
            await until(are_there, _START_SECONDS, what="the workers to report")


class process:  # noqa: N801  reads as a verb where it is used
    """A program of this project, run for as long as the block; its logs go nowhere."""

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        self._words = words
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._words],
            cwd=ROOT,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self._process

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def answers(url: str, started: "subprocess.Popen[bytes]") -> None:
    """Wait until a process that was just started answers with 200."""
    async with httpx.AsyncClient(trust_env=False) as client:

        async def is_ready() -> bool:
            if started.poll() is not None:
                message = f"{started.args!r} ended with {started.returncode}"
                raise AssertionError(message)
            try:
                return (await client.get(url)).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        await until(is_ready, _START_SECONDS, what=url)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _catalogue(url: str, models: tuple[str, ...]) -> str:
    rows = [f'[[providers]]\nname = "bench"\nbase_url = "{url}"\n']
    rows += [
        f'[[models]]\nidentifier = "{model}"\nprovider = "bench"\nupstream = "{model}"\n'
        "context_window = 32768\ninput_rate = 0.5\noutput_rate = 1.5\n"
        for model in models
    ]
    return "\n".join(rows)
