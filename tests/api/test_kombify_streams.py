"""`POST /v1/ai/chat`, streamed: from the first event, and never refused once accepted."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from api.follow.subscriber import Subscriber
from api.guards.open_waits import OpenWaits
from shared.errors import Code, RefusedError, UnavailableError
from shared.stores import generations
from shared.wire.account import Account
from tests.api.kombify_client import CHAT, SESSIONS, payload, refused
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import ReceivedEvent, following, read_events, text_of
from tests.support.system import System


def _events_of(answer: httpx.Response) -> list[ReceivedEvent]:
    """Return the events of a response that must be a stream."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "ratelimit-limit" in answer.headers or "idempotent-replayed" in answer.headers
    return read_events(answer.content)


@pytest.mark.usefixtures("worker")
async def test_who_asks_for_events_gets_them_from_the_first(api: ApiClient) -> None:
    ways: list[tuple[Json, dict[str, str]]] = [
        ({"stream": True}, {}),
        ({"stream": True}, {"accept": "application/json"}),
        ({}, {"accept": "text/event-stream"}),
        ({"stream": False}, {"accept": "text/event-stream, */*;q=0.1"}),
    ]
    for fields, headers in ways:
        answer = await api.post(CHAT, json={"message": "hello", **fields}, headers=headers)
        received = _events_of(answer)
        assert (received[0].name, received[-1].name) == ("accepted", "completed")
        assert text_of(received) == received[-1].payload["message"]["content"] == "You said: hello"
        begun = received[0].payload
        session = payload(await api.get(f"{SESSIONS}/{begun['session_id']}"))
        assert session["messages"][1]["id"] == begun["id"]


@pytest.mark.usefixtures("worker")
async def test_routing_says_the_same_in_both_dialects(api: ApiClient) -> None:
    received = _events_of(await api.post(CHAT, json={"message": "hello", "stream": True}))
    status = body(await api.get(received[0].payload["poll_url"]))
    [routed] = [one.payload["routing"] for one in received if one.name == "routed"]
    assert routed == received[-1].payload["routing"] == status["routing"]
    assert [each["excluded_by"] for each in routed["candidates"]] == [None, None]


@pytest.mark.usefixtures("worker")
async def test_the_published_request_streams_as_it_stands(system: System, api: ApiClient) -> None:
    assert api
    bearer = await system.caller({"authorization": f"Bearer {(await system.key()).key}"})
    asked = {
        "message": "Explain my server architecture",
        "companion": "smart-home",
        "model": "gpt-4o",
        "stream": True,
    }
    received = _events_of(await bearer.post(CHAT, json=asked))
    assert text_of(received) == "You said: Explain my server architecture"


@pytest.mark.usefixtures("worker")
async def test_the_same_request_again_streams_the_same_generation(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    asked, headers = {"message": "hello", "stream": True}, {"idempotency-key": "k"}
    answers = [await api.post(CHAT, json=asked, headers=headers) for _ in range(2)]
    assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, True]
    assert _events_of(answers[0]) == _events_of(answers[1])
    assert len(provider.requests) == 1


async def test_reasoning_is_streamed_and_kept_apart(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    await system.worker()
    provider.script.append(ScriptedAnswer(reasoning="Let me think.", text="Two bears."))
    received = _events_of(await api.post(CHAT, json={"message": "hello", "stream": True}))
    names = [one.name for one in received]
    assert names.index("reasoning") < names.index("delta")
    thought = "".join(one.payload["text"] for one in received if one.name == "reasoning")
    assert (thought, text_of(received)) == ("Let me think.", "Two bears.")
    message = received[-1].payload["message"]
    assert (message["content"], message["reasoning_content"]) == ("Two bears.", "Let me think.")


async def test_who_vanishes_from_a_stream_cancels_nothing(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    await system.worker()
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two three", gate=gate, gate_after=1))
    key = {"idempotency-key": "k"}
    with pytest.raises(httpx.ReadTimeout):
        await api.post(CHAT, json={"message": "hello", "stream": True}, headers=key, timeout=0.5)
    gate.set()
    again = await api.post(CHAT, json={"message": "hello", "stream": True}, headers=key)
    assert text_of(_events_of(again)) == "one two three"
    assert len(provider.requests) == 1


async def test_a_stream_that_cannot_begin_does_not_refuse_what_is_in(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(_: Subscriber) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(Subscriber, "connect", connect)
    said = payload(await api.post(CHAT, json={"message": "hello", "stream": True}), 202)
    assert (await api.poll(said))["state"] == "processing"


async def test_what_was_deleted_meanwhile_is_a_conflict_as_for_who_waits(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.change("api", wait_seconds_max=1)
    await system.front()
    api = await system.customer()
    asked, headers = {"message": "hello"}, {"idempotency-key": "k"}
    payload(await api.post(CHAT, json=asked, headers=headers), 202)

    async def find(*_: object) -> None:
        return None

    monkeypatch.setattr(generations, "find", find)
    for accept in ("application/json", "text/event-stream"):
        answer = await api.post(CHAT, json=asked, headers=headers | {"accept": accept})
        error = refused(answer, 409, "GENERATION_ERROR")
        assert error["details"]["failure"]["category"] == "cancelled"


async def test_a_stream_that_finds_no_room_does_not_refuse_what_is_in(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the message and its stream, another may take the last place."""
    held, has_room = OpenWaits.hold, iter([True, False] * 2)

    @contextmanager
    def hold(places: OpenWaits, account: Account, end: Callable[[], None]) -> Iterator[None]:
        if not next(has_room):
            raise RefusedError("no place", Code.RATE_LIMITED, retry_after_seconds=1)
        with held(places, account, end):
            yield

    monkeypatch.setattr(OpenWaits, "hold", hold)
    asked, headers = {"message": "hello", "stream": True}, {"idempotency-key": "k"}
    answers = [await api.post(CHAT, json=asked, headers=headers) for _ in range(2)]
    # A repeated request may find the generation running, so its hint may differ.
    assert payload(answers[0], 202)["id"] == payload(answers[1], 202)["id"]
    assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, True]
    assert (await api.poll(payload(answers[0], 202)))["state"] == "processing"


async def test_who_follows_as_many_as_it_may_is_refused_before_the_message_is_in(
    system: System, provider: ScriptedProvider
) -> None:
    system.change_tier("enterprise", waits_max=1)
    await system.front()
    api = await system.customer()
    first = await api.submit("hello")
    async with following(api, first["events_url"]) as stream:
        assert await stream.next()
        asked = {"message": "another", "stream": True}
        refused(await api.post(CHAT, json=asked), 429, "RATE_LIMITED")
    listed = payload(await api.get(SESSIONS))
    assert listed["total"] == 1
    assert not provider.requests
