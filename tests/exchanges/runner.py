"""Runs exchanges through a whole system: front, Redis, worker, sockets.

Owns the deployment (a provider and a model for each exchange, so that none cools another's), what
two accounts ask, and the outcomes. All exchanges of a call run at once.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from shared.clock import SystemClock
from shared.settings import ModelSettings, ProviderSettings
from tests.exchanges.byte_upstream import Upstream
from tests.exchanges.exchange import Exchange, Expected
from tests.support import api_client
from tests.support.api_client import ApiClient, Json
from tests.support.system import System

_CAPABILITIES: Final = ("json", "reasoning", "web_search", "vision", "tools")
# Shorter than the hints of the front, so that the tests are quick.
_POLL_SECONDS: Final = 0.05


class Outcome(NamedTuple):
    """The outcome of an exchange, and of a second account's message to the same model."""

    status: Json
    listed: Json
    calls: int
    bodies: list[Any]
    unrelated: Json | None

    def faults(self, expected: Expected) -> list[str]:
        """Return the differences from the expected outcome."""
        status, result = self.status, self.status["result"]
        failure = status["failure"] or {}
        failure_code = f"{failure['category']}/{failure['code']}" if failure else ""
        reasoning = result.get("reasoning_content")
        pairs: list[tuple[str, object, object]] = [
            ("state", status["state"], expected.state),
            ("failure", failure_code, expected.failure),
            ("content", result["content"], expected.content),
            ("calls", self.calls, expected.calls),
            ("finish_reason", result.get("finish_reason"), expected.finish_reason),
            ("reasoning", reasoning, expected.reasoning),
            ("credits", status["credits_used"], expected.credits),
            ("retryable", failure.get("retryable"), expected.retryable),
            ("stage", status["stage"], expected.stage),
        ]
        compared = [each for each in pairs if each[2] is not None]
        found = [
            f"{outcome} {outcomes!r}, not {wanted!r}"
            for outcome, outcomes, wanted in compared
            if outcomes != wanted
        ]
        if (
            expected.state == "completed"
            and self.listed.get("finish_reason") != expected.finish_reason
        ):
            found.append(f"listed with finish_reason {self.listed.get('finish_reason')!r}")
        if self.unrelated is not None and self.unrelated["state"] != "completed":
            found.append(f"another account's message: {self.unrelated['failure']}")
        return found


async def play(
    system: System, exchanges: Sequence[Exchange], *, seconds: float = 15.0
) -> dict[str, Outcome]:
    """Run exchanges on a system in which nothing runs yet; return the outcomes by name."""
    async with Upstream(exchanges) as upstream:
        system.settings = msgspec.structs.replace(
            system.settings,
            providers=tuple(_provider(each, upstream.url(each.name)) for each in exchanges),
            models=tuple(_model(each) for each in exchanges),
        )
        system.change("api", reads_per_minute=1_000_000)
        await system.front()
        worker = await system.worker()
        first, second = await system.customer("one"), await system.customer("two")
        outcomes = await asyncio.gather(
            *(_play(upstream, each, first, second, seconds) for each in exchanges)
        )
        await system.stop(worker)
    return {each.name: outcome for each, outcome in zip(exchanges, outcomes, strict=True)}


def _provider(exchange: Exchange, url: str) -> ProviderSettings:
    words = {"name": exchange.name, "dialect": exchange.dialect, "base_url": url}
    return msgspec.convert(words | dict(exchange.provider), ProviderSettings)


def _model(exchange: Exchange) -> ModelSettings:
    words = {
        "identifier": exchange.name,
        "provider": exchange.name,
        "upstream": exchange.name,
        "capabilities": _CAPABILITIES,
        "context_window": 32_768,
        "max_output_tokens": 4096,
        "input_rate": 1.0,
        "output_rate": 1.0,
    }
    return msgspec.convert(words | dict(exchange.model), ModelSettings)


async def _play(
    upstream: Upstream, exchange: Exchange, api: ApiClient, other: ApiClient, seconds: float
) -> Outcome:
    session: Json = {}
    for message in exchange.before:
        status = await api.submit_and_wait(message, model=exchange.name, **session)
        session = {"session_id": status.get("session_id") or session["session_id"]}
    before = len(upstream.calls[exchange.name])
    fields = {"model": exchange.name, **session, **exchange.fields}
    receipt = await api.submit(exchange.message, **fields)
    status = await _outcome(api, receipt, exchange.expected, seconds)
    calls = upstream.calls[exchange.name][before:]
    unrelated = None
    if exchange.marker:
        unrelated = await _outcome(
            other, await other.submit("plain words", model=exchange.name), Expected(), seconds
        )
    messages = await api.messages(receipt["session_id"])
    listed = [each for each in messages if each["role"] == "assistant"][-1:] or [{}]
    if status["state"] == "processing":
        await api.post(receipt["poll_url"].replace("/status", "/cancel"))
    return Outcome(status, listed[0], len(calls), [each.body for each in calls], unrelated)


async def _outcome(api: ApiClient, receipt: Json, expected: Expected, seconds: float) -> Json:
    """Poll until it has ended, or is at the expected stage."""
    ends = time.monotonic() + seconds
    while True:
        try:
            answer = await api.get(receipt["poll_url"])
        except httpx.TransportError as error:
            raise AssertionError(str(error)) from error
        status = api_client.body(answer)
        is_at_stage = expected.stage is not None and status["stage"] == expected.stage
        if status["state"] != "processing" or is_at_stage or time.monotonic() > ends:
            return status
        await SystemClock().sleep(_POLL_SECONDS)
