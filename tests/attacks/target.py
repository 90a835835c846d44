"""The attacked system, of any checkout, started as an operator starts it.

Owns the processes, their settings and the API keys of accounts. A checkout is known by its `pollux`
command only, so it may be of any version; differences between versions are handled here.
"""

import asyncio
import json
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from tests.support import processes, waiting
from tests.support.api_client import NO_TLS, ApiClient
from tests.support.processes import Process
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider

ROOT: Final = Path(__file__).resolve().parents[2]
MIB: Final = 2**20
_START_SECONDS: Final = 30.0
_COMMAND_SECONDS: Final = 30.0
_CREDITS: Final = 1_000_000
_SETTINGS: Final = """
[[providers]]
name = "scripted"
base_url = "{upstream}"

[[models]]
identifier = "scripted"
provider = "scripted"
upstream = "scripted"
capabilities = ["vision"]
context_window = 300000
max_output_tokens = 2048
input_rate = 0.5
output_rate = 1.5

[egress]
allow = ["127.0.0.0/8"]
ports = [{ports}]
"""
# Gives a process its own resolv.conf, in a mount namespace that ends with it.
_WITH_RESOLVER: Final = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


class Key(NamedTuple):
    """An API key, as it is shown once, and its id."""

    key: str
    id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an attack needs. `resolver`: the address of the only name server of workers."""

    workers: int = 1
    maxmemory_mib: int | None = None
    ports: tuple[int, ...] = (80,)
    resolver: str | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running system."""

    checkout: Path
    folder: Path
    environment: dict[str, str]
    server: Server
    provider: ScriptedProvider
    url: str
    api: Process
    workers: tuple[Process, ...]

    @property
    def port(self) -> int:
        """The port of the front on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])

    async def pollux(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a `pollux` command of the checkout to its end."""
        return await asyncio.to_thread(
            subprocess.run,
            [command_of(self.checkout), *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )

    async def key(self, account: str, tier: str, credits: int = _CREDITS) -> Key:  # noqa: A002  as the option is named
        """Create a key of an account, and set the account's tier."""
        words = ("--account", account, "--tier", tier, "--credits", str(credits), "--json")
        done = await self.pollux("keys", "create", *words)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        return Key(made["key"], made["key_id"])

    def customer(self, key: Key) -> ApiClient:
        """Return a client with the key."""
        headers = {"x-api-key": key.key}
        return ApiClient(
            base_url=self.url, headers=headers, timeout=60.0, verify=NO_TLS, trust_env=False
        )

    def stored_bytes(self) -> int:
        """Return the memory that the server uses."""
        with self.server.raw_client() as raw_client:
            return int(raw_client("INFO", "memory")["used_memory"])


def command_of(checkout: Path) -> str:
    """Return the `pollux` command of a checkout."""
    return str(checkout / ".venv" / "bin" / "pollux")


@asynccontextmanager
async def running(checkout: Path, plan: Plan) -> AsyncIterator[Target]:
    """Start the system of a checkout, wait until it is ready, and end it with the block."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plx")))
        server = stack.enter_context(Server())
        if plan.maxmemory_mib is not None:
            with server.raw_client() as raw_client:
                raw_client("CONFIG", "SET", "maxmemory", plan.maxmemory_mib * MIB)
        provider = await stack.enter_async_context(ScriptedProvider())
        provider.keeps_requests = False
        environment = environment_of(folder, provider, plan.ports) | {"REDIS_URL": server.url}
        port = processes.free_port()
        api = _start(stack, checkout, environment, ("api", "--port", str(port)), None)
        workers = [
            _start(stack, checkout, environment, ("worker",), plan.resolver)
            for _ in range(plan.workers)
        ]
        target = Target(
            checkout=checkout,
            folder=folder,
            environment=environment,
            server=server,
            provider=provider,
            url=f"http://127.0.0.1:{port}",
            api=api,
            workers=tuple(workers),
        )
        await _until_ready(target)
        yield target


def environment_of(
    folder: Path, provider: ScriptedProvider, ports: tuple[int, ...]
) -> dict[str, str]:
    """Write the settings file to a folder; return the environment variables."""
    where = folder / "settings.toml"
    where.write_text(_SETTINGS.format(upstream=provider.url, ports=", ".join(map(str, ports))))
    return {
        "PATH": "/usr/bin:/bin",
        "POLLUX_CONFIG": str(where),
        "POLLUX_MEDIA__FOLDER": str(folder / "media"),
        "POLLUX_PEPPER": secrets.token_hex(32),
    }


def _start(
    stack: AsyncExitStack,
    checkout: Path,
    environment: dict[str, str],
    words: tuple[str, ...],
    resolver: str | None,
) -> Process:
    program: tuple[str, ...] = (command_of(checkout),)
    folder = Path(environment["POLLUX_CONFIG"]).parent
    if resolver is not None:
        (folder / "resolv.conf").write_text(f"nameserver {resolver}\n")
        shell = ("unshare", "-m", "sh", "-c", _WITH_RESOLVER, "sh")
        program = (*shell, str(folder / "resolv.conf"), *program)
    log = folder / f"{words[0]}.log"
    return stack.enter_context(Process(list(words), environment, log, program=program))


async def _until_ready(target: Target) -> None:
    async with httpx.AsyncClient(verify=NO_TLS, trust_env=False) as client:

        async def is_ready() -> bool:
            try:
                answer = await client.get(f"{target.url}/readyz")
            except httpx.TransportError:
                assert target.api.is_running, target.api.text()
                return False
            return answer.status_code == httpx.codes.OK

        await waiting.until(is_ready, _START_SECONDS, what="the front")
    if not target.workers:
        return
    async with target.customer(await target.key("owner", "enterprise")) as customer:

        async def are_known() -> bool:
            models = (await customer.get("/api/v1/models")).json()["models"]
            return any(each["available"] for each in models)

        await waiting.until(are_known, _START_SECONDS, what="the workers")
