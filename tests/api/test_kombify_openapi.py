"""The dialect in the published document: its own error shape, 201, 202, 204, and streams."""

from typing import Any

import httpx
import pytest

from shared.wire.account import SCOPES
from tests.api.kombify_client import AI, CHAT, KEYS, SESSIONS, chat, payload, session
from tests.support import openapi_document
from tests.support.api_client import ApiClient, Json
from tests.support.mounts import MOUNTS
from tests.support.system import System
from tests.support.waiting import until


def _responses(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = openapi_document.document()["paths"][AI + path][method]["responses"]
    return found


def _shape(response: dict[str, Any]) -> str:
    reference: str = response["content"]["application/json"]["schema"]["$ref"]
    return reference.rsplit("/", 1)[-1]


def test_each_dialect_is_documented_with_its_own_refusals() -> None:
    for path, item in openapi_document.document()["paths"].items():
        shape = "ErrorEnvelope" if path.startswith(f"{AI}/") else "ErrorReply"
        for operation in item.values():
            refusals = [
                response for status, response in operation["responses"].items() if status >= "400"
            ]
            assert {_shape(response) for response in refusals} == {shape}, path


def test_chat_tells_of_waiting_and_of_events() -> None:
    for path in ("/chat", "/companion/{type}/chat"):
        responses = _responses("post", path)
        assert responses["200"]["content"].keys() == {"application/json", "text/event-stream"}
        assert _shape(responses["200"]) == "ChatReply"
        assert _shape(responses["202"]) == "LaterReply"
        assert {"409", "422", "500", "502", "503", "504"} <= responses.keys()
        assert "expired" in responses["504"]["description"]


def test_every_success_is_documented_by_its_status() -> None:
    assert _shape(_responses("post", "/sessions")["201"]) == "SessionReply"
    assert "content" not in _responses("delete", "/sessions/{session_id}")["204"]
    assert "200" not in _responses("delete", "/sessions/{session_id}")


async def _delivered(owner: ApiClient) -> list[httpx.Response]:
    """Return the answers of the routes of one delivery, which the worker makes of an event."""

    async def listed() -> Json:
        found: Json = payload(await owner.get(f"{AI}/webhooks/deliveries"))["items"]
        return found

    [delivery] = await until(listed, what="a delivery")
    path = f"{AI}/webhooks/deliveries/{delivery['id']}"
    return [await owner.get(path), await owner.post(f"{path}/replay")]


@pytest.mark.usefixtures("worker")
async def test_every_operation_answers_as_it_is_documented(api: ApiClient, system: System) -> None:
    owner = await system.customer(scopes=SCOPES)
    key = payload(await owner.post(KEYS, json={}), 201)
    said = await chat(api, "hello", model="alpha")
    made = await session(api, companion="work", metadata={"a": "b"})
    answers = [
        await api.post(CHAT, json={"message": "hello"}),
        await api.post(f"{AI}/companion/personal/chat", json={"message": "hello"}),
        await api.get(f"{AI}/agents"),
        await api.post(SESSIONS, json={}),
        await api.get(SESSIONS),
        await api.get(f"{SESSIONS}/{said['session_id']}"),
        await api.patch(f"{SESSIONS}/{made['id']}", json={"name": "n"}),
        await api.delete(f"{SESSIONS}/{made['id']}"),
        await api.get(f"{AI}/events"),
        await owner.put(f"{AI}/webhooks/config", json={"url": "http://localhost/hook"}),
        await owner.get(f"{AI}/webhooks/config"),
        await owner.post(f"{AI}/webhooks/config/rotate"),
        await owner.post(f"{AI}/webhooks/test"),
        await owner.get(f"{AI}/webhooks/deliveries"),
        *await _delivered(owner),
        await owner.delete(f"{AI}/webhooks/config"),
        await api.get(f"{AI}/preferences"),
        await api.put(f"{AI}/preferences/model", json={"model": "alpha"}),
        await owner.post(KEYS, json={"name": "n", "expires_at": "2999-01-31T12:00:00Z"}),
        await owner.get(KEYS),
        await owner.delete(f"{KEYS}/{key['id']}"),
    ]
    assert len(answers) == len(MOUNTS[AI])
    for answer in answers:
        asked = answer.request
        where = (asked.method, asked.url.path, answer.status_code)
        assert answer.is_success
        assert openapi_document.faults(*where, answer.headers, answer.content) == []
