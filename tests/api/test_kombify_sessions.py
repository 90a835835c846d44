"""Sessions: created, listed, read, renamed and deleted; the same as Kolbo's conversations."""

import asyncio
from typing import Any, Final

import pytest

from shared import ids
from shared.redis import keys
from tests.api.kombify_client import SESSIONS, TIME, chat, payload, refused, session
from tests.api.test_kolbo_lists import NO_NUMBERS
from tests.support.api_client import ApiClient, Json, body
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

LIST: Final = "/api/v1/chat/conversations"


async def test_a_session_is_created_as_requested(api: ApiClient) -> None:
    asked = {"companion": "smart-home", "name": "My home 🏠", "metadata": {"room": "küche"}}
    answer = await api.post(SESSIONS, json=asked)
    made = payload(answer, 201)
    assert answer.headers["location"] == f"{SESSIONS}/{made['id']}"
    assert {name: made[name] for name in asked} == asked
    assert made.keys() == asked.keys() | {"id", "created_at", "last_activity", "messages_total"}
    assert TIME.fullmatch(made["created_at"])
    assert made["created_at"] == made["last_activity"]
    assert made["messages_total"] == 0
    whole = payload(await api.get(f"{SESSIONS}/{made['id']}"))
    assert whole == made | {"messages": []}


async def test_every_field_of_a_new_session_is_optional(api: ApiClient) -> None:
    nothing: tuple[Json, ...] = (
        {},
        {"companion": None, "name": None, "metadata": None},
        {"metadata": {}},
    )
    for asked in nothing:
        made = payload(await api.post(SESSIONS, json=asked), 201)
        assert (made["companion"], made["metadata"]) == (None, {})
        assert made["name"] == f"API Chat - {made['created_at'][:10]}"


async def test_what_a_session_cannot_be_is_refused(api: ApiClient) -> None:
    wrong: dict[str, tuple[Any, ...]] = {
        "companion": (3, ["work"]),
        "name": ("", "n" * 201, 3, "a\0"),
        "metadata": ([], {"a": 1}, {"k" * 65: "v"}, {f"k{n}": "v" for n in range(17)}),
        "system_prompt": ("Be brief.",),
    }
    for name, values in wrong.items():
        for value in values:
            answer = await api.post(SESSIONS, json={name: value})
            assert f"`{name}" in refused(answer, 400, "INVALID_FIELDS")["message"], (name, value)
    assert payload(await api.get(SESSIONS))["total"] == 0


async def test_the_same_request_again_answers_with_the_same_session(
    api: ApiClient, system: System, server: Server
) -> None:
    headers = {"idempotency-key": "k"}
    answers = await asyncio.gather(
        *(api.post(SESSIONS, json={"name": "one"}, headers=headers) for _ in range(5))
    )
    assert len({payload(answer, 201)["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 4
    answer = await api.post(SESSIONS, json={"name": "two"}, headers=headers)
    refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    answer = await api.post("/v1/ai/chat", json={"message": "a"}, headers=headers)
    refused(answer, 422, "IDEMPOTENCY_MISMATCH")
    assert payload(await api.get(SESSIONS))["total"] == 1
    # Deleting it forgets the key, too.
    made = payload(answers[0], 201)
    await api.delete(f"{SESSIONS}/{made['id']}")
    root = system.accounts.root_of(await system.account())
    with server.raw_client() as raw_client:
        assert raw_client.names(keys.IDEMPOTENCY(root, "one", "*")) == []
    again = await api.post(SESSIONS, json={"name": "one"}, headers=headers)
    assert payload(again, 201)["id"] != made["id"]
    assert "idempotent-replayed" not in again.headers


async def test_sessions_are_listed_in_parts_last_active_first(api: ApiClient) -> None:
    made = [await session(api, name=f"s{n}") for n in range(5)][::-1]
    listed = payload(await api.get(SESSIONS))
    assert (listed["items"], listed["total"]) == (made, 5)
    assert (listed["limit"], listed["offset"]) == (20, 0)
    for limit, offset in ((2, 0), (2, 3), (2, 4), (5, 0), (1, 9)):
        part = payload(await api.get(SESSIONS, params={"limit": limit, "offset": offset}))
        assert part["items"] == made[offset : offset + limit]
        assert (part["total"], part["limit"], part["offset"]) == (5, limit, offset)
    assert payload(await api.get(SESSIONS, params={"limit": 101}))["limit"] == 100


async def test_parts_must_be_whole_numbers(api: ApiClient) -> None:
    made = await session(api)
    for text in NO_NUMBERS:
        answer = await api.get(SESSIONS, params={"limit": text})
        assert "`limit`" in refused(answer, 400, "INVALID_FIELDS")["message"]
        answer = await api.get(f"{SESSIONS}/{made['id']}", params={"before": text})
        assert "`before`" in refused(answer, 400, "INVALID_FIELDS")["message"]
        if text != "0":
            answer = await api.get(SESSIONS, params={"offset": text})
            assert "`offset`" in refused(answer, 400, "INVALID_FIELDS")["message"]


@pytest.mark.usefixtures("worker")
async def test_messages_are_returned_with_the_session(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    first = await chat(api, "one", model="beta")
    id_ = first["session_id"]
    provider.script.append(ScriptedAnswer(status=422))
    await api.submit_and_wait("two", session_id=id_)
    whole = payload(await api.get(f"{SESSIONS}/{id_}"))
    assert whole["messages_total"] == 4
    for message in whole["messages"]:
        is_answer = message["role"] == "assistant"
        assert ("finish_reason" in message) is is_answer
        assert message.keys() - {"finish_reason"} == {
            "id", "role", "content", "status", "model", "turn", "created_at",
        }  # fmt: skip
        assert TIME.fullmatch(message["created_at"])
    assert [
        (each["role"], each["content"], each["status"], each["model"], each["turn"])
        for each in whole["messages"]
    ] == [
        ("user", "one", "completed", None, 1),
        ("assistant", "You said: one", "completed", "beta", 1),
        ("user", "two", "completed", None, 2),
        ("assistant", "", "failed", "alpha", 2),
    ]
    assert whole["messages"][1]["id"] == first["id"]


async def test_the_last_hundred_messages_come_first_and_those_before_on_demand(
    api: ApiClient,
) -> None:
    made = await session(api)
    for n in range(1, 54):
        await api.submit(f"m{n}", session_id=made["id"])

    async def turns(**parameters: int) -> list[int]:
        answer = await api.get(f"{SESSIONS}/{made['id']}", params=parameters)
        whole = payload(answer)
        assert whole["messages_total"] == 106
        assert [each["role"] for each in whole["messages"][:2]] in ([], ["user", "assistant"])
        return [each["turn"] for each in whole["messages"][::2]]

    assert await turns() == list(range(4, 54))
    assert await turns(before=4) == [1, 2, 3]
    assert await turns(before=1) == []
    assert await turns(before=54) == await turns(before=999) == list(range(4, 54))


@pytest.mark.usefixtures("worker")
async def test_a_session_is_the_same_in_both_dialects(api: ApiClient) -> None:
    made = await session(api, name="Empty")
    listed = body(await api.get(LIST))["conversations"]
    assert [(each["session_id"], each["name"]) for each in listed] == [(made["id"], "Empty")]
    assert await api.messages(made["id"]) == []
    await api.submit_and_wait("one", session_id=made["id"])
    await chat(api, "two", session_id=made["id"])
    assert [each["content"] for each in await api.messages(made["id"])] == [
        "one",
        "You said: one",
        "two",
        "You said: two",
    ]
    assert payload(await api.get(f"{SESSIONS}/{made['id']}"))["messages_total"] == 4
    renamed = payload(await api.patch(f"{SESSIONS}/{made['id']}", json={"name": "Full"}))
    assert (renamed["id"], renamed["name"], renamed["messages_total"]) == (made["id"], "Full", 4)
    assert body(await api.get(LIST))["conversations"][0]["name"] == "Full"
    body(await api.patch(f"{LIST}/{made['id']}", json={"name": "Fuller"}))
    assert payload(await api.get(f"{SESSIONS}/{made['id']}"))["name"] == "Fuller"
    body(await api.delete(f"{LIST}/{made['id']}"))
    refused(await api.get(f"{SESSIONS}/{made['id']}"), 404, "SESSION_NOT_FOUND")
    theirs = await api.submit("hello")
    assert payload(await api.get(SESSIONS))["items"][0]["id"] == theirs["session_id"]


async def test_deleting_a_session_ends_what_runs_and_forgets_it(
    api: ApiClient, system: System, server: Server
) -> None:
    made = await session(api, companion="work", metadata={"a": "b"})
    receipts = [await api.submit("hello", session_id=made["id"]) for _ in range(2)]
    answer = await api.delete(f"{SESSIONS}/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.credits())["held"] == 0
    for receipt in receipts:
        assert (await api.get(receipt["poll_url"])).status_code == 404
    refused(await api.delete(f"{SESSIONS}/{made['id']}"), 404, "SESSION_NOT_FOUND")
    root = system.accounts.root_of(await system.account())
    with server.raw_client() as raw_client:
        assert not [name for name in raw_client.names(f"{root}*") if made["id"] in name]


async def test_what_is_no_session_is_not_found(api: ApiClient) -> None:
    for id_ in (ids.new_id(), "x", "a:b", "x" * 65, "*", "%C3%A9"):
        path = f"{SESSIONS}/{id_}"
        refused(await api.get(path), 404, "SESSION_NOT_FOUND")
        refused(await api.patch(path, json={"name": "n"}), 404, "SESSION_NOT_FOUND")
        refused(await api.delete(path), 404, "SESSION_NOT_FOUND")
    refused(await api.patch(f"{SESSIONS}/x", json={}), 400, "MISSING_FIELDS")
