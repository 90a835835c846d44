"""Open streams and waits of a key end when it is revoked, in both dialects, on every server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from shared.stores.accounts import Accounts
from tests.api.kombify_client import CHAT, refused as refused_in_kombify
from tests.support import waiting
from tests.support.api_client import NO_TLS, ApiClient, Json, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import ENDS, Follower, following
from tests.support.system import System

# Two seconds are promised; a busy machine gets some more.
_PATIENCE_SECONDS = 10.0
_LAST_WORDS = ": the API key was revoked or has expired"


async def _ends(stream: Follower) -> None:
    """Read to the end of a stream, which names the key as the reason."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await stream.rest()
    assert stream.received[-1].name not in ENDS
    assert _LAST_WORDS in stream.comments


@asynccontextmanager
async def _chatting(customer: ApiClient) -> AsyncIterator[Follower]:
    async with (
        httpx.AsyncClient(verify=NO_TLS, trust_env=False, timeout=20.0) as http,
        http.stream(
            "POST",
            f"{customer.base_url}{CHAT}",
            headers={"x-api-key": customer.headers["x-api-key"]},
            json={"message": "hello", "stream": True},
        ) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        yield Follower(answer)


async def _find_nothing(*_: object) -> set[str]:
    return set()


@pytest.mark.usefixtures("worker")
async def test_streams_and_waits_of_a_revoked_key_end_on_every_front(
    system: System, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The publication suffices, and arrives first.
    monkeypatch.setattr(Accounts, "find_revoked", _find_nothing)
    provider.answer = lambda _: ScriptedAnswer(text="one two three", gate=gate, gate_after=1)
    gate = asyncio.Event()
    urls = [await system.front(), await system.front()]
    key, spare = await system.key(), await system.key()
    async with AsyncExitStack() as stack:
        revoked = [await system.caller({"x-api-key": key.key}, url) for url in urls]
        friend = await system.caller({"x-api-key": spare.key})
        receipt = await friend.submit("hello")
        path = receipt["events_url"]
        streams = [await stack.enter_async_context(following(each, path)) for each in revoked]
        streams += [await stack.enter_async_context(_chatting(each)) for each in revoked]
        kept = await stack.enter_async_context(following(friend, path))
        for stream in (*streams, kept):
            await stream.until("delta")
        polls = [
            asyncio.create_task(each.get(receipt["poll_url"], params={"wait": "40"}))
            for each in revoked
        ]
        chats = [
            asyncio.create_task(each.post(CHAT, json={"message": "hello"})) for each in revoked
        ]
        await waiting.until(lambda: len(provider.requests) == 5, what="the chats that wait")
        assert await system.accounts.revoke_key(key.key_id)
        for stream in streams:
            await _ends(stream)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for poll in polls:
                assert "revoked" in refused(await poll, 401, "INVALID_API_KEY")["error"]
            for chat in chats:
                refused_in_kombify(await chat, 401, "INVALID_API_KEY")
        gate.set()
        assert (await kept.rest())[-1].name == "completed"


async def test_a_stream_that_begins_with_a_key_just_revoked_is_refused(
    system: System, api: ApiClient
) -> None:
    """The server's cache still has the key, but the revocation has arrived."""
    receipt: Json = await api.submit("hello")
    key = await system.key()
    caller = await system.caller({"x-api-key": key.key})
    async with following(caller, receipt["events_url"]) as stream:
        await stream.until("accepted")
        assert await system.accounts.revoke_key(key.key_id)
        await _ends(stream)
    refused(await caller.get(receipt["events_url"]), 401, "INVALID_API_KEY")


@pytest.mark.usefixtures("api")
async def test_a_revocation_is_found_in_the_records_of_many_keys(system: System) -> None:
    made = [await system.key() for _ in range(3)]
    assert await system.accounts.revoke_key(made[1].key_id)
    known = [each.key_id for each in made]
    assert await system.accounts.find_revoked(known * 200) == {made[1].key_id}
    assert await system.accounts.find_revoked(["never-made"]) == {"never-made"}
