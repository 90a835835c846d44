"""`Idempotency-Key`: the same request again returns the same generation, however it ended."""

import asyncio
from typing import Final

import httpx
import pytest

from shared.redis import keys
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
DOUBLED: Final = "/api/api/v1/chat"
REPLAYED: Final = "idempotent-replayed"


async def _send(
    api: ApiClient, message: str, key: str = "k1", path: str = CHAT, **fields: object
) -> httpx.Response:
    asked: Json = {"message": message, **fields}
    return await api.post(path, json=asked, headers={"idempotency-key": key})


def _ids(answer: httpx.Response) -> tuple[str, str]:
    receipt = body(answer)
    return receipt["message_id"], receipt["session_id"]


@pytest.mark.usefixtures("worker")
async def test_the_same_request_again_answers_for_the_same_generation(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    first = await _send(api, "hello")
    assert REPLAYED not in first.headers
    again = await _send(api, "hello")
    assert again.headers[REPLAYED] == "true"
    assert body(again).keys() == body(first).keys()
    assert _ids(again) == _ids(first)
    assert body(again)["poll_url"] == body(first)["poll_url"]
    await api.wait_for_end(body(first))
    late = await _send(api, "hello")
    assert (_ids(late), late.headers[REPLAYED]) == (_ids(first), "true")
    assert len(provider.requests) == 1
    assert (await api.credits())["held"] == 0
    assert len(await api.messages(body(first)["session_id"])) == 2


async def test_both_prefixes_are_one_route(api: ApiClient) -> None:
    first = await _send(api, "hello")
    again = await _send(api, "hello", path=DOUBLED)
    assert (_ids(again), again.headers[REPLAYED]) == (_ids(first), "true")


@pytest.mark.usefixtures("worker")
async def test_twenty_at_once_make_one_generation(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    second_front = await system.front()
    urls = [CHAT, second_front + CHAT]
    answers = await asyncio.gather(*(_send(api, "hello", path=urls[n % 2]) for n in range(20)))
    assert len({_ids(answer) for answer in answers}) == 1
    assert sum(REPLAYED in answer.headers for answer in answers) == 19
    await api.wait_for_end(body(answers[0]))
    assert len(provider.requests) == 1
    assert body(await api.get("/api/v1/chat/conversations"))["pagination"]["total"] == 1


async def test_another_body_under_the_same_key_is_a_mismatch(api: ApiClient) -> None:
    first = await _send(api, "hello")
    for asked in (
        {"message": "other"},
        {"message": "hello", "model": "alpha"},
        {"message": "hello", "session_id": body(first)["session_id"]},
    ):
        answer = await api.post(CHAT, json=asked, headers={"idempotency-key": "k1"})
        refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    # The raw bytes are compared; an invalid body is refused as invalid.
    answer = await api.post(
        CHAT,
        content=b'{ "message": "hello" }',
        headers={"idempotency-key": "k1", "content-type": "application/json"},
    )
    refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    answer = await api.post(CHAT, json={}, headers={"idempotency-key": "k1"})
    refused(answer, 400, "MISSING_FIELDS")
    again = await _send(api, "hello")
    assert _ids(again) == _ids(first)


async def test_a_key_is_each_accounts_own(api: ApiClient, other: ApiClient) -> None:
    mine, theirs = await _send(api, "hello"), await _send(other, "hello")
    assert REPLAYED not in theirs.headers
    assert _ids(mine) != _ids(theirs)
    assert body(await _send(other, "other", key="k2"))


async def test_every_key_of_an_account_shares_them(api: ApiClient, system: System) -> None:
    first = await _send(api, "hello")
    twin = await system.customer("one")
    assert _ids(await _send(twin, "hello")) == _ids(first)


async def test_a_refusal_is_not_kept(system: System) -> None:
    await system.front()
    api = await system.customer(funds=0.01)
    refused(await _send(api, "hello", model="none"), 400, "MODEL_NOT_FOUND")
    refused(await _send(api, "hello"), 402, "INSUFFICIENT_CREDITS")
    await system.accounts.grant(await system.account(), 1_000_000)
    answer = await _send(api, "hello")
    assert body(answer)
    assert REPLAYED not in answer.headers


async def test_a_replay_is_neither_limited_nor_charged(system: System) -> None:
    await system.front()
    api = await system.customer(tier="free", funds=0.06)
    first = await _send(api, "hello")
    held = await api.credits()
    for _ in range(12):
        assert _ids(await _send(api, "hello")) == _ids(first)
    assert await api.credits() == held
    # The account cannot pay for a second message, but this repeats the first.
    refused(await _send(api, "more", key="k2"), 402, "INSUFFICIENT_CREDITS")


async def test_a_key_has_1_to_255_characters(api: ApiClient) -> None:
    for key in ("k", "k" * 255, "with spaces, and: 'signs' {}"):
        first = await _send(api, "hello", key=key)
        assert _ids(await _send(api, "hello", key=key)) == _ids(first)
    for wrong in ("", "k" * 256):
        refusal = refused(await _send(api, "hello", key=wrong), 400, "INVALID_FIELDS")
        assert "Idempotency-Key" in refusal["error"]
    longest = await _send(api, "hello", key="k" * 254 + "j")
    assert REPLAYED not in longest.headers


async def test_deleting_the_conversation_forgets_the_key(api: ApiClient) -> None:
    first = await _send(api, "hello")
    body(await api.delete(f"/api/v1/chat/conversations/{body(first)['session_id']}"))
    second = await _send(api, "hello")
    assert REPLAYED not in second.headers
    assert _ids(second) != _ids(first)


async def test_a_key_is_kept_for_a_day(api: ApiClient, system: System, server: Server) -> None:
    await _send(api, "hello", key="a secret of mine")
    account = await system.account()
    with server.raw_client() as raw_client:
        pattern = keys.IDEMPOTENCY(system.accounts.root_of(account), account.id, "*")
        (name,) = raw_client.names(pattern)
        assert "secret" not in name
        assert 86_000_000 < raw_client("PTTL", name) <= 86_400_000
