"""A streamed POST that is sent again with `Last-Event-ID` continues, and starts nothing new."""

import asyncio
from typing import Final

import httpx
import pytest

from shared import ids
from shared.redis import keys
from tests.api.kombify_client import AI, CHAT, SESSIONS, payload, refused
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import Follower, ReceivedEvent, posting, read_events, text_of
from tests.support.system import System

ASKED: Final[Json] = {"message": "hello", "stream": True}
KEY: Final = {"idempotency-key": "k"}


def _events(answer: httpx.Response) -> list[ReceivedEvent]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return read_events(answer.content)


async def _read_partly(provider: ScriptedProvider, stream: Follower, gate: asyncio.Event) -> str:
    """Read up to the first words, let the answer go on unread, and return the last id."""
    await stream.until("delta")
    gate.set()
    assert len(provider.requests) == 1
    return stream.received[-1].id


async def _total(api: ApiClient) -> int:
    """Return the number of sessions: each message without one creates another."""
    return int(payload(await api.get(SESSIONS))["total"])


@pytest.mark.usefixtures("worker")
async def test_a_cut_stream_continues_from_any_server(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    """As a browser does: the same POST, with the last id that it received."""
    gate, url = asyncio.Event(), await system.front()
    provider.script.append(ScriptedAnswer(text="one two three", gate=gate, gate_after=1))
    async with posting(api, CHAT, ASKED) as stream:
        last = await _read_partly(provider, stream, gate)
    generation = stream.received[0].payload["id"]
    assert all(one.id.startswith(f"{generation}:") for one in stream.received)
    async with posting(api, CHAT, ASKED, after=last, url=url) as again:
        await again.rest()
    assert again.answer.headers["idempotent-replayed"] == "true"
    ids_heard = [one.id for one in stream.received + again.received]
    assert len(set(ids_heard)) == len(ids_heard)
    assert text_of(stream.received + again.received) == "one two three"
    assert again.received[-1].name == "completed"
    assert (len(provider.requests), await _total(api)) == (1, 1)
    # After the end there is nothing more, which is no error.
    assert _events(await api.post(CHAT, json=ASKED, headers={"last-event-id": ids_heard[-1]})) == []
    # The event routes accept both forms of ids.
    for after in (last, last.partition(":")[2]):
        path = f"/api/v1/generate/{generation}/events"
        received = _events(await api.get(path, headers={"last-event-id": after}))
        assert [one.id for one in received] == [one.id.partition(":")[2] for one in again.received]


@pytest.mark.usefixtures("worker")
async def test_a_dropped_stream_continues_with_a_snapshot(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    received = _events(await api.post(CHAT, json=ASKED))
    account, generation = await system.account(), received[0].payload["id"]
    root = system.accounts.root_of(account)
    await system.redis.call("DEL", keys.EVENTS(root, account.id, generation))
    again = _events(await api.post(CHAT, json=ASKED, headers={"last-event-id": received[1].id}))
    assert [one.name for one in again] == ["snapshot", "completed"]
    assert all(one.id.startswith(f"{generation}:") for one in again)
    assert text_of(again) == "You said: hello"
    assert len(provider.requests) == 1


@pytest.mark.usefixtures("worker")
async def test_request_that_waits_is_answered_by_the_generation_it_names(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    """The first request asked for a stream by `Accept`; the second does not."""
    asked = {"message": "hello"}
    first = await api.post(CHAT, json=asked, headers={"accept": "text/event-stream"})
    received = _events(first)
    answer = payload(await api.post(CHAT, json=asked, headers={"last-event-id": received[0].id}))
    assert (answer["id"], answer["message"]["content"]) == (
        received[0].payload["id"],
        "You said: hello",
    )
    assert len(provider.requests) == 1


@pytest.mark.usefixtures("worker")
async def test_without_an_id_the_same_body_is_another_message(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    """Two people behind one API key may send the same message."""
    headers = [{}, {}, {"last-event-id": ""}]
    received = [_events(await api.post(CHAT, json=ASKED, headers=each)) for each in headers]
    assert len({each[0].payload["id"] for each in received}) == len(provider.requests) == 3


@pytest.mark.usefixtures("worker")
async def test_id_goes_on_with_nothing_but_what_the_same_request_made(
    system: System, api: ApiClient, other: ApiClient, provider: ScriptedProvider
) -> None:
    colleague = await system.customer()
    received = _events(await api.post(CHAT, json=ASKED))
    last = received[1].id
    polled = await api.submit_and_wait("hello")
    before = await _total(api), len(provider.requests)

    async def sent(
        caller: ApiClient, id_: str, asked: Json = ASKED, path: str = CHAT
    ) -> httpx.Response:
        return await caller.post(path, json=asked, headers={"last-event-id": id_})

    for differs in (
        await sent(api, last, ASKED | {"message": "Hello"}),
        await sent(api, last, ASKED | {"session_id": received[0].payload["session_id"]}),
        await sent(api, last, path=f"{AI}/companion/personal/chat"),
        await sent(api, f"{polled['generation_id']}:1-1"),
    ):
        refused(differs, 422, "IDEMPOTENCY_MISMATCH")
    unknown = refused(await sent(api, f"{ids.new_id()}:1-1"), 404, "GENERATION_NOT_FOUND")
    # Another account, and another API key of the same one.
    for stranger in (other, colleague):
        assert refused(await sent(stranger, last), 404, "GENERATION_NOT_FOUND") == unknown
    for wrong in ("seven", f"{last}x", "1-7"):
        refused(await sent(api, wrong), 400, "INVALID_FIELDS")
    path = f"/api/v1/generate/{polled['generation_id']}/events"
    wrong_path = await api.get(path, headers={"last-event-id": last})
    assert (wrong_path.status_code, wrong_path.json()["code"]) == (400, "INVALID_FIELDS")
    assert (await _total(api), len(provider.requests)) == before
    assert await _total(other) == 0


@pytest.mark.usefixtures("worker")
async def test_idempotency_key_goes_on_after_the_id_and_never_twice(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    received = _events(await api.post(CHAT, json=ASKED, headers=KEY))
    rest = received[2:]
    for last in (received[1].id, received[1].id.partition(":")[2]):
        again = await api.post(CHAT, json=ASKED, headers=KEY | {"last-event-id": last})
        assert again.headers["idempotent-replayed"] == "true"
        assert _events(again) == rest
    another = _events(await api.post(CHAT, json=ASKED, headers={"idempotency-key": "another"}))
    cases: list[tuple[dict[str, str], Json, int, str]] = [
        (KEY | {"last-event-id": another[1].id}, ASKED, 422, "IDEMPOTENCY_MISMATCH"),
        (
            KEY | {"last-event-id": "1-1"},
            {"message": "no", "stream": True},
            422,
            "IDEMPOTENCY_MISMATCH",
        ),
        (
            {"idempotency-key": "unknown", "last-event-id": "1-1"},
            ASKED,
            404,
            "GENERATION_NOT_FOUND",
        ),
    ]
    for headers, asked, status, code in cases:
        refused(await api.post(CHAT, json=asked, headers=headers), status, code)
    # An unknown Idempotency-Key changes nothing for an id that names its generation.
    unknown = {"idempotency-key": "unknown", "last-event-id": received[1].id}
    assert _events(await api.post(CHAT, json=ASKED, headers=unknown)) == rest
    assert len(provider.requests) == 2


async def test_resumed_requests_have_the_limit_of_repeated_ones(system: System) -> None:
    system.change_tier("enterprise", refused_per_minute=2)
    await system.front()
    api = await system.customer()
    headers = {"last-event-id": f"{ids.new_id()}:1-1"}
    codes = [(await api.post(CHAT, json=ASKED, headers=headers)).status_code for _ in range(3)]
    assert codes == [404, 404, 429]


async def test_record_keeps_little_of_its_request(system: System, api: ApiClient) -> None:
    asked: Json = {"message": "hello" * 1_000, "priority": "batch"}
    system.change("api", wait_seconds_max=0)
    url = await system.front()
    later = payload(await api.post(url + CHAT, json=asked), 202)
    account = await system.account()
    where = keys.GENERATION(system.accounts.root_of(account), account.id, later["id"])
    polled = await api.submit("hello")
    assert 0 < await system.redis.call("HSTRLEN", where, "origin") <= 30
    where = keys.GENERATION(system.accounts.root_of(account), account.id, polled["message_id"])
    assert await system.redis.call("HSTRLEN", where, "origin") == 0
    assert body(await api.post(f"/api/v1/generate/{later['id']}/cancel"))["state"] == "cancelled"
