"""A whole system for a bench: server, scripted provider, API and workers as real processes.

Owns their start, their end, and one account with credits, without limits, with a key. The processes
get a fixed environment, so none of the operator's own settings is used, and their log is discarded.
"""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from shared.clock import SystemClock
from shared.redis import keys, library
from shared.redis.client import Redis
from shared.settings import (
    ApiSettings,
    ModelSettings,
    ProviderSettings,
    RedisSettings,
    RetentionSettings,
    Settings,
    WorkerSettings,
)
from shared.stores.accounts import Accounts
from shared.tiers import LimitSettings, Tier
from shared.wire.account import DEFAULT_SCOPES, Account
from tests.support import processes
from tests.support.api_client import ApiClient
from tests.support.processes import Process
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.waiting import until

CONCURRENCY: Final = 64
_PLENTY: Final = 1_000_000_000
_CREDITS: Final = 10**15
_START_SECONDS: Final = 30.0
_CLIENT_SECONDS: Final = 120.0
_GIVE_UP_SECONDS: Final = 600.0
# No bench speaks TLS; a context without certificates is created much faster.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """What a bench uses of the system."""

    server: Server
    provider: ScriptedProvider
    settings: Settings
    environment: dict[str, str]
    redis: Redis
    account: Account
    key: str
    url: str
    api: Process
    workers: tuple[Process, ...]

    @property
    def root(self) -> str:
        """The root of the account's partition."""
        return keys.partition_root(self.settings.redis, self.account.partition)

    @property
    def pids(self) -> list[int]:
        """The process ids of the server, the front and the workers."""
        return [self.server.pid, self.api.pid, *(worker.pid for worker in self.workers)]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a submission of the account."""
        return {"x-api-key": self.key, "content-type": "application/json"}

    def customer(self) -> ApiClient:
        """Return a client with the key, for few requests at a time: its pool is slow."""
        return ApiClient(
            base_url=self.url,
            headers={"x-api-key": self.key},
            timeout=_CLIENT_SECONDS,
            verify=_NO_TLS,
            trust_env=False,
        )


def model(name: str, *, window: int = 32_768, output: int = 2_048) -> ModelSettings:
    """Return a model of the rig's provider with these token limits."""
    return ModelSettings(
        identifier=name,
        provider="bench",
        upstream=name,
        context_window=window,
        max_output_tokens=output,
        input_rate=0.5,
        output_rate=1.5,
        first_token_seconds=_GIVE_UP_SECONDS,
        silence_seconds=_GIVE_UP_SECONDS,
    )


@asynccontextmanager
async def running(
    *,
    workers: int = 0,
    concurrency: int = CONCURRENCY,
    models: tuple[ModelSettings, ...] | None = None,
    upstream: str | None = None,
    retention: RetentionSettings | None = None,
) -> AsyncIterator[Rig]:
    """Start everything, wait until it is ready, and end it all with the block.

    `models` share one provider: the scripted one, or the one at `upstream`.
    """
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server())
        provider = await stack.enter_async_context(ScriptedProvider())
        settings = _settings(
            server,
            upstream or provider.url,
            models=models or (model("scripted"),),
            concurrency=concurrency,
            retention=retention or RetentionSettings(),
        )
        environment = processes.environment(settings, server.folder)
        redis = Redis(settings.redis)
        stack.push_async_callback(redis.close)
        await library.load(redis)
        account, key = await _account(redis, settings)
        port = processes.free_port()
        api = stack.enter_context(program(["api", "--port", str(port)], environment))
        url = f"http://127.0.0.1:{port}"
        await answers(f"{url}/readyz")
        started = [stack.enter_context(program(["worker"], environment)) for _ in range(workers)]
        rig = Rig(
            server=server,
            provider=provider,
            settings=settings,
            environment=environment,
            redis=redis,
            account=account,
            key=key,
            url=url,
            api=api,
            workers=tuple(started),
        )
        await reported(rig, workers)
        yield rig


def program(words: list[str], environment: dict[str, str]) -> Process:
    """Start a program of this project and discard its log; a context manager."""
    return Process(words, environment, Path(os.devnull))


async def answers(url: str, seconds: float = _START_SECONDS) -> None:
    """Wait until a URL answers with 200."""
    async with httpx.AsyncClient(trust_env=False) as client:

        async def is_ready() -> bool:
            try:
                return (await client.get(url)).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        await until(is_ready, seconds, what=url)


async def reported(rig: Rig, workers: int) -> None:
    """Wait until `workers` workers have reported, and the front knows of them."""
    where = keys.WORKER_REPORTS(keys.system_root(rig.settings.redis))
    async with rig.customer() as customer:

        async def are_known() -> bool:
            listed = (await customer.get("/api/v1/models")).json()["models"]
            is_served = all(model["available"] for model in listed)
            return is_served and await rig.redis.call("HLEN", where) == workers

        if workers:
            await until(are_known, _START_SECONDS, what="the workers' reports")


async def _account(redis: Redis, settings: Settings) -> tuple[Account, str]:
    accounts = Accounts(redis, settings.redis, b"", SystemClock())
    account = await accounts.create("bench", "enterprise")
    await accounts.grant(account, _CREDITS)
    return account, (await accounts.create_key(account, DEFAULT_SCOPES)).key


def _settings(
    server: Server,
    upstream: str,
    *,
    models: tuple[ModelSettings, ...],
    concurrency: int,
    retention: RetentionSettings,
) -> Settings:
    return Settings(
        redis=RedisSettings(url=server.url),
        api=ApiSettings(
            reads_per_minute=_PLENTY,
            waits_per_account=_PLENTY,
            uploads_max=_PLENTY,
            uploads_per_account=_PLENTY,
        ),
        worker=WorkerSettings(concurrency=concurrency),
        limits=LimitSettings(
            enterprise=Tier(
                submissions_per_minute=_PLENTY,
                unfinished_max=_PLENTY,
                running_max=_PLENTY,
                batch_items_max=_PLENTY,
                open_batches_max=_PLENTY,
                stored_bytes_max=1_000 * _PLENTY,
            ),
            unfinished_total=_PLENTY,
        ),
        retention=retention,
        providers=(
            ProviderSettings(name="bench", base_url=upstream, idle_seconds=_GIVE_UP_SECONDS),
        ),
        models=models,
    )
