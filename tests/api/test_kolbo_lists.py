"""Conversations, messages and models: listed page by page, renamed, deleted."""

import asyncio
import re
from typing import Final

import pytest

from shared import ids
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from worker.consumer.arq_worker import PolluxWorker

LIST: Final = "/api/v1/chat/conversations"
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NO_NUMBERS: Final = ("0", "-1", "", "x", "1.5", "1e1", "٣", " 1", "+1", "9" * 10, "null")


async def _talk(api: ApiClient, *messages: str) -> str:
    """Hold a conversation and return its session."""
    receipt = await api.submit(messages[0])
    await api.wait_for_end(receipt)
    session = str(receipt["session_id"])
    for message in messages[1:]:
        await api.submit_and_wait(message, session_id=session)
    return session


async def test_no_conversations_are_an_empty_list(api: ApiClient) -> None:
    assert body(await api.get(LIST)) == {
        "success": True,
        "conversations": [],
        "pagination": {"page": 1, "limit": 20, "total": 0, "pages": 0},
    }


@pytest.mark.usefixtures("worker")
async def test_conversations_are_listed_by_their_last_activity(api: ApiClient) -> None:
    first = await _talk(api, "one")
    second = await _talk(api, "two")
    listed = body(await api.get(LIST))["conversations"]
    assert [each["session_id"] for each in listed] == [second, first]
    await api.submit_and_wait("three", session_id=first)
    listed = body(await api.get(LIST))["conversations"]
    assert [each["session_id"] for each in listed] == [first, second]
    for each in listed:
        assert each.keys() == {"session_id", "name", "last_activity", "created_at"}
        assert TIME.fullmatch(each["last_activity"])
        assert TIME.fullmatch(each["created_at"])
        assert each["created_at"] <= each["last_activity"]
        assert re.fullmatch(r"API Chat - \d{4}-\d\d-\d\d", each["name"])
        assert each["name"].endswith(each["created_at"][:10])


async def test_conversations_come_in_pages(api: ApiClient) -> None:
    sessions = [(await api.submit(f"m{n}"))["session_id"] for n in range(7)][::-1]
    for page, limit, pages in ((1, 3, 3), (2, 3, 3), (3, 3, 3), (4, 3, 3), (1, 7, 1), (9, 50, 1)):
        got = body(await api.get(LIST, params={"page": page, "limit": limit}))
        start = (page - 1) * limit
        assert [each["session_id"] for each in got["conversations"]] == sessions[
            start : start + limit
        ]
        assert got["pagination"] == {"page": page, "limit": limit, "total": 7, "pages": pages}


async def test_a_limit_over_the_cap_is_capped(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    messages = f"{LIST}/{receipt['session_id']}/messages"
    for path, usual, most in ((LIST, 20, 50), (messages, 50, 100)):
        for asked, given in ((None, usual), (most, most), (most + 1, most), (999_999_999, most)):
            parameters = {} if asked is None else {"limit": asked}
            got = body(await api.get(path, params=parameters))
            assert got["pagination"]["limit"] == given
        far = body(await api.get(path, params={"page": 999_999_999}))
        assert far["pagination"]["page"] == 999_999_999


async def test_what_is_no_page_is_refused_by_its_name(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    for path in (LIST, f"{LIST}/{receipt['session_id']}/messages"):
        for name in ("page", "limit"):
            for value in NO_NUMBERS:
                answer = await api.get(path, params={name: value})
                assert f"`{name}`" in refused(answer, 400, "INVALID_FIELDS")["error"], value


@pytest.mark.usefixtures("worker")
async def test_messages_are_listed_with_what_is_published(api: ApiClient) -> None:
    receipt = await api.submit("hello", model="alpha")
    await api.wait_for_end(receipt)
    got = body(await api.get(f"{LIST}/{receipt['session_id']}/messages"))
    asked, answered = got["messages"]
    assert asked == {
        "message_id": asked["message_id"],
        "role": "user",
        "content": "hello",
        "status": "completed",
        "created_at": asked["created_at"],
    }
    assert answered == {
        "message_id": receipt["message_id"],
        "role": "assistant",
        "content": "You said: hello",
        "status": "completed",
        "model": {"identifier": "alpha", "name": "Alpha", "provider": "Scripted"},
        "finish_reason": "stop",
        "created_at": answered["created_at"],
    }
    assert ids.is_id(asked["message_id"])
    assert asked["message_id"] != answered["message_id"]
    assert TIME.fullmatch(asked["created_at"])
    assert asked["created_at"] <= answered["created_at"]
    assert got["session_id"] == receipt["session_id"]
    assert got["pagination"] == {"page": 1, "limit": 50, "total": 2, "pages": 1}


@pytest.mark.usefixtures("worker")
async def test_who_asked_for_no_model_reads_auto(api: ApiClient) -> None:
    session = await _talk(api, "hello")
    _, answered = await api.messages(session)
    assert answered["model"] == {"identifier": "auto", "name": "Auto", "provider": "Pollux"}


@pytest.mark.usefixtures("worker")
async def test_messages_come_in_pages_of_any_size(api: ApiClient) -> None:
    # More turns than one chunk of the store holds.
    session = await _talk(api, *(f"m{n}" for n in range(18)))
    everything = await api.messages(session, limit=100)
    assert [each["content"] for each in everything] == [
        text for n in range(18) for text in (f"m{n}", f"You said: m{n}")
    ]
    for limit in (1, 3, 5, 32, 35, 36):
        pages = -(-36 // limit)
        got = [
            message
            for page in range(1, pages + 2)
            for message in await api.messages(session, page=page, limit=limit)
        ]
        assert got == everything, limit


@pytest.mark.usefixtures("worker")
async def test_turns_that_did_not_complete_are_listed_with_how_they_stand(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(status=422))
    provider.script.append(ScriptedAnswer(text="one two", gate=asyncio.Event(), gate_after=1))
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    receipt = await api.submit("fails")
    session = receipt["session_id"]
    await api.wait_for_end(receipt)
    cancelled = await api.submit("is cancelled", session_id=session, model="beta")

    async def has_begun() -> bool:
        return bool((await api.poll(cancelled))["result"]["content"])

    await waiting.until(has_begun)
    await api.post(cancelled["cancel_url"])
    await api.wait_for_end(cancelled)
    running = await api.submit("runs", session_id=session)
    waits = await api.submit("waits", session_id=session)
    listed = await api.messages(session)
    assert [(each["role"], each["status"], each["content"]) for each in listed] == [
        ("user", "completed", "fails"),
        ("assistant", "failed", ""),
        ("user", "completed", "is cancelled"),
        ("assistant", "cancelled", "one"),
        ("user", "completed", "runs"),
        ("assistant", "processing", ""),
        ("user", "completed", "waits"),
        ("assistant", "processing", ""),
    ]
    models = [each["model"]["identifier"] for each in listed[1::2]]
    assert models == ["auto", "beta", "auto", "auto"]
    assert [each["message_id"] for each in listed[5::2]] == [
        running["message_id"],
        waits["message_id"],
    ]


async def test_a_conversation_is_renamed(api: ApiClient) -> None:
    session = (await api.submit("hello"))["session_id"]
    for name in ("Trip to Rome", "é" * 200, "🚀", " "):
        answer = await api.patch(f"{LIST}/{session}", json={"name": name})
        renamed = body(answer)["conversation"]
        assert renamed["name"] == name
        assert body(await api.get(LIST))["conversations"] == [renamed]


async def test_what_is_no_name_is_refused(api: ApiClient) -> None:
    session = (await api.submit("hello"))["session_id"]
    before = body(await api.get(LIST))
    cases: tuple[tuple[Json, str], ...] = (
        ({}, "MISSING_FIELDS"),
        ({"name": None}, "MISSING_FIELDS"),
        ({"name": ""}, "INVALID_FIELDS"),
        ({"name": "x" * 201}, "INVALID_FIELDS"),
        ({"name": 3}, "INVALID_FIELDS"),
        ({"name": "a\0b"}, "INVALID_FIELDS"),
        ({"name": "a", "title": "b"}, "INVALID_FIELDS"),
    )
    for asked, code in cases:
        refused(await api.patch(f"{LIST}/{session}", json=asked), 400, code)
    assert body(await api.get(LIST)) == before
    unknown = await api.patch(f"{LIST}/{ids.new_id()}", json={"name": "a"})
    refused(unknown, 404, "SESSION_NOT_FOUND")


@pytest.mark.usefixtures("worker")
async def test_a_deleted_conversation_is_gone_everywhere(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    session = receipt["session_id"]
    await api.wait_for_end(receipt)
    assert body(await api.delete(f"{LIST}/{session}")) == {"success": True, "session_id": session}
    assert body(await api.get(LIST))["conversations"] == []
    refused(await api.get(f"{LIST}/{session}/messages"), 404, "SESSION_NOT_FOUND")
    refused(await api.patch(f"{LIST}/{session}", json={"name": "a"}), 404, "SESSION_NOT_FOUND")
    refused(await api.delete(f"{LIST}/{session}"), 404, "SESSION_NOT_FOUND")
    refused(await api.get(receipt["poll_url"]), 404, "GENERATION_NOT_FOUND")
    refused(await api.post(receipt["cancel_url"]), 404, "GENERATION_NOT_FOUND")
    asked = {"message": "still there?", "session_id": session}
    refused(await api.post("/api/v1/chat", json=asked), 404, "SESSION_NOT_FOUND")


@pytest.mark.usefixtures("worker")
async def test_deleting_ends_what_runs_and_charges_what_was_shown(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two", gate=asyncio.Event(), gate_after=1))
    receipt = await api.submit("hello")
    await api.submit("and then", session_id=receipt["session_id"])

    async def has_begun() -> bool:
        return bool((await api.poll(receipt))["result"]["content"])

    await waiting.until(has_begun, what="the first word")
    assert (await api.credits())["held"] > 0
    wait = asyncio.create_task(api.get(receipt["poll_url"], params={"wait": 45}))
    body(await api.delete(f"{LIST}/{receipt['session_id']}"))
    left = await api.credits()
    assert left["held"] == 0.0
    assert 999.0 < left["total"] == left["available"] < 1000.0
    refused(await wait, 404, "GENERATION_NOT_FOUND")
    await waiting.until(lambda: provider.requests[0].gone_at, what="the upstream call's end")
    assert (await api.submit_and_wait("the worker lives"))["state"] == "completed"
    assert len(provider.requests) == 2


async def test_models_are_listed_as_the_catalogue_has_them(api: ApiClient) -> None:
    got = body(await api.get("/api/v1/models"))
    assert got["count"] == len(got["models"]) == 2
    # The cost of 1,000 tokens in and 500 out, and the rates in credits a thousand tokens.
    assert got["models"][0] == {
        "identifier": "alpha",
        "name": "Alpha",
        "provider": "Scripted",
        "types": ["chat"],
        "credit": 0.2,
        "recommended": True,
        "summary": "The first.",
        "smart_select_strengths": {"general": 0.7, "code": 0.9},
        "input_token_rate": 0.1,
        "output_token_rate": 0.2,
        "context_window": 4096,
        "max_output_tokens": 256,
        "capabilities": ["json"],
        "estimated_duration_seconds": 2.0,
        "available": False,
    }
    assert got["models"][1]["identifier"] == got["models"][1]["name"] == "beta"


async def test_models_are_filtered_by_type_and_provider(api: ApiClient) -> None:
    for parameters, count in (
        ({"type": "chat"}, 2),
        ({"type": "text"}, 2),
        ({"type": "image"}, 0),
        ({"provider": "Scripted"}, 2),
        ({"provider": "scripted"}, 2),
        ({"provider": "nobody"}, 0),
        ({"type": "chat", "provider": "Scripted"}, 2),
    ):
        got = body(await api.get("/api/v1/models", params=parameters))
        assert got["count"] == len(got["models"]) == count, parameters


async def test_a_model_is_available_while_a_worker_serves_it(
    api: ApiClient, system: System, worker: PolluxWorker
) -> None:
    # A server reads the fleet once a second.
    system.clock.advance(1.1)
    got = body(await api.get("/api/v1/models"))
    assert [each["available"] for each in got["models"]] == [True, True]
    await system.stop(worker)
    system.clock.advance(1.1)
    got = body(await api.get("/api/v1/models"))
    assert [each["available"] for each in got["models"]] == [False, False]
