"""A generation without a session: `session_id` is null in every answer, and it is in no list.

No route makes one yet, so here every accepted message is one.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import httpx
import pytest

from api.accept.accept import Idempotency, Receipt, Submissions
from api.accept.intent import Intent
from api.guards.identify import Caller
from shared.redis import keys
from shared.wire.submission import PLAIN
from tests.api.kombify_client import CHAT, SESSIONS, payload, refused
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import following, posting, text_of
from tests.support.system import System
from worker.providers.contract import ChatRequest, Ended, GeneratedMedia, Part
from worker.providers.registry import Registry

KEY: Final = {"idempotency-key": "k"}
_PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(99)
ASKED: Final[Json] = {"message": "hello", "stream": True}


class _Painter:
    """A provider whose answer is a picture."""

    async def stream(self, _: ChatRequest) -> AsyncGenerator[Part, None]:
        yield GeneratedMedia("image", "image/png", _PNG)
        yield Ended("stop")


@pytest.fixture(autouse=True)
def _sessionless(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Submissions.accept

    async def accept_alone(
        self: Submissions,
        caller: Caller,
        intent: Intent,
        idempotency: Idempotency | None,
        request_id: str,
        *,
        origin: str | None = None,
    ) -> Receipt:
        alone = {name: getattr(intent, name) for name in intent.__struct_fields__}
        alone |= {"session": None, "is_sessionless": True}
        return await accept(self, caller, Intent(**alone), idempotency, request_id, origin=origin)

    monkeypatch.setattr(Submissions, "accept", accept_alone)


async def _lists(api: ApiClient) -> list[int]:
    """Return how many sessions each dialect lists."""
    conversations = body(await api.get("/api/v1/chat/conversations"))
    return [len(conversations["conversations"]), payload(await api.get(SESSIONS))["total"]]


@pytest.mark.usefixtures("worker")
async def test_polls_of_one_show_its_answer_and_no_session(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two", gate=gate))
    receipt = await api.submit("hello", metadata={"a": "b"}, project_id="p")
    assert receipt["session_id"] is None
    running = await api.poll(receipt)
    assert (running["session_id"], running["metadata"]) == (None, {"a": "b"})
    gate.set()
    ended = await api.wait_for_end(receipt)
    assert (ended["session_id"], ended["project_id"]) == (None, "p")
    assert (ended["state"], ended["result"]["content"]) == ("completed", "one two")
    answer = await api.get(receipt["poll_url"])
    tag = {"if-none-match": answer.headers["etag"]}
    assert (await api.get(receipt["poll_url"], headers=tag)).status_code == 304
    assert await _lists(api) == [0, 0]
    [request] = provider.requests
    assert [each["role"] for each in request.messages] == ["user"]


@pytest.mark.usefixtures("worker")
async def test_one_that_is_waited_for_shows_no_session(api: ApiClient) -> None:
    first = payload(await api.post(CHAT, json={"message": "hello"}, headers=KEY))
    assert (first["session_id"], first["message"]["content"]) == (None, "You said: hello")
    again = await api.post(CHAT, json={"message": "hello"}, headers=KEY)
    assert again.headers["idempotent-replayed"] == "true"
    assert (payload(again)["id"], payload(again)["session_id"]) == (first["id"], None)
    other = await api.post(CHAT, json={"message": "other"}, headers=KEY)
    refused(other, 422, "IDEMPOTENCY_MISMATCH")


async def test_one_that_is_not_answered_in_time_shows_no_session(
    system: System, api: ApiClient
) -> None:
    system.change("api", wait_seconds_max=1)
    api.base_url = httpx.URL(await system.front())
    later = payload(await api.post(CHAT, json={"message": "hello", "deadline_seconds": 60}), 202)
    assert later["session_id"] is None
    cancelled = body(await api.post(later["cancel_url"]))
    assert cancelled["effect"] == "immediate"
    ended = await api.poll(later)
    assert (ended["state"], ended["session_id"]) == ("cancelled", None)
    assert (await api.credits())["held"] == 0


@pytest.mark.usefixtures("worker")
async def test_a_failure_shows_no_session(api: ApiClient, provider: ScriptedProvider) -> None:
    provider.answer = lambda _: ScriptedAnswer(status=400)
    error = refused(await api.post(CHAT, json={"message": "hello"}), 422, "GENERATION_ERROR")
    assert error["details"]["session_id"] is None


@pytest.mark.usefixtures("worker")
async def test_streams_of_one_begin_without_a_session(api: ApiClient) -> None:
    async with posting(api, CHAT, ASKED) as stream:
        await stream.rest()
    assert stream.received[0].payload["session_id"] is None
    assert text_of(stream.received) == "You said: hello"
    generation, first = stream.received[0].payload["id"], stream.received[0].id
    async with posting(api, CHAT, ASKED, after=first) as resumed:
        await resumed.rest()
    assert resumed.answer.headers["idempotent-replayed"] == "true"
    assert text_of(resumed.received) == "You said: hello"
    async with following(api, f"/api/v1/generate/{generation}/events") as followed:
        await followed.rest()
    assert followed.received[0].payload["session_id"] is None
    assert text_of(followed.received) == "You said: hello"
    assert await _lists(api) == [0, 0]


async def test_files_that_a_model_made_are_noted_to_end_with_the_record(
    api: ApiClient, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, "provider_of", lambda *_: _Painter())
    await system.worker()
    ended = await api.submit_and_wait("draw")
    generation = ended["generation_id"]
    [url] = ended["result"]["image_urls"]
    assert url.startswith(f"/media/one/{generation}/")
    assert (await api.get(url)).content == _PNG
    root = system.accounts.root_of(await system.account())
    noted = await system.redis.call("ZRANGE", keys.EXPIRING_FILES(root), 0, -1)
    assert noted == [f"one:{generation}".encode()]


def test_an_intent_without_a_session_names_none_and_no_prompt_of_one() -> None:
    fields: Json = {
        "message": "hello",
        "model": "auto",
        "enhance_prompt": False,
        "lane": "batch",
        "on_conflict": "enqueue",
        "budget": None,
        "deadline_seconds": None,
        "metadata": None,
        "project": None,
        "features": PLAIN,
        "is_sessionless": True,
    }
    Intent(**fields, session=None, system_prompt=None)
    for session, system_prompt in (("s", None), (None, "Be brief.")):
        with pytest.raises(ValueError, match="without a session"):
            Intent(**fields, session=session, system_prompt=system_prompt)
