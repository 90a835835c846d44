"""A generation's server-sent events: from the beginning, from the middle, and after the end."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import pytest

from shared import ids
from shared.redis import keys
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import ENDS, ReceivedEvent, following, text_of
from tests.support.system import System

_TEXT: Final = "Two bears went into a wood, and one of them came out."


def _number(received: ReceivedEvent) -> tuple[int, int]:
    epoch, _, seq = received.id.partition("-")
    return int(epoch), int(seq)


@contextmanager
def stuck(url: str, path: str, key: str) -> Iterator[None]:
    """Open a stream with a client that never reads."""
    place = urlsplit(url)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        reader.connect((place.hostname, place.port))
        head = f"GET {path} HTTP/1.1\r\nHost: pollux\r\nX-API-Key: {key}\r\n\r\n"
        reader.sendall(head.encode())
        yield


async def _subscribers(system: System, receipt: Json) -> int:
    """Count the API servers that follow a generation."""
    account = await system.account()
    where = (system.accounts.root_of(account), account.id, receipt["message_id"])
    _, count = await system.redis.call("PUBSUB", "NUMSUB", keys.events_channel(*where))
    return int(count)


async def _nobody_follows(system: System, receipt: Json) -> None:
    async def is_left_alone() -> bool:
        return await _subscribers(system, receipt) == 0

    await waiting.until(is_left_alone, what="the last follower's end")


async def _all(api: ApiClient, receipt: Json, **how: str) -> list[ReceivedEvent]:
    async with following(api, receipt["events_url"], **how) as stream:
        return await stream.rest()


@pytest.mark.usefixtures("worker")
async def test_the_stream_tells_the_whole_story_once(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text=_TEXT, gap_seconds=0.002))
    receipt = await api.submit("hello")
    received = await _all(api, receipt)
    names = [one.name for one in received]
    assert names[:3] == ["accepted", "routed", "stage"]
    assert received[0].payload == {
        "type": "accepted",
        "id": receipt["message_id"],
        "session_id": receipt["session_id"],
        "poll_url": receipt["poll_url"],
    }
    assert [name for name in names if name in ENDS] == ["completed"] == names[-1:]
    assert [_number(one) for one in received] == sorted({_number(one) for one in received})
    assert text_of(received) == _TEXT
    status = await api.poll(receipt)
    end = received[-1].payload
    assert end["message"]["content"] == status["result"]["content"] == _TEXT
    assert end["message"]["id"] == receipt["message_id"]
    assert end["message"]["model"] == status["routing"]["chosen"] == "alpha"
    assert end["usage"]["credits"] == status["credits_used"] > 0
    assert end["routing"]["chosen"] == "alpha"


@pytest.mark.usefixtures("worker")
async def test_an_ended_stream_is_sent_again_from_any_event_on(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text=_TEXT, gap_seconds=0.002))
    receipt = await api.submit("hello")
    received = await _all(api, receipt)
    assert len(received) > 5
    assert await _all(api, receipt) == received
    for number, one in enumerate(received[:-1]):
        assert await _all(api, receipt, after=one.id) == received[number + 1 :]
        path = receipt["events_url"] + f"?after={one.id}"
        async with following(api, path) as stream:
            assert await stream.rest() == received[number + 1 :]
    answer = await api.get(receipt["events_url"], params={"after": received[-1].id})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_the_header_goes_before_the_parameter(
    api: ApiClient, provider: ScriptedProvider, system: System
) -> None:
    await system.worker()
    provider.script.append(ScriptedAnswer(text=_TEXT))
    receipt = await api.submit("hello")
    received = await _all(api, receipt)
    receipt["events_url"] += f"?after={received[0].id}"
    assert await _all(api, receipt, after=received[-2].id) == received[-1:]


@pytest.mark.usefixtures("worker")
async def test_who_comes_in_the_middle_gets_all_of_it_and_goes_on(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text=_TEXT, gate=gate, gate_after=4, gap_seconds=0.002))
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as first:
        await first.until("delta")
        async with following(api, receipt["events_url"]) as second:
            await second.until("delta")
            gate.set()
            assert await second.rest() == await first.rest()
    assert text_of(first.received) == _TEXT


async def test_another_server_returns_the_same(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    elsewhere = await system.front()
    await system.worker()
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text=_TEXT, gate=gate, gate_after=4))
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as here:
        seen = await here.until("delta")
        async with following(api, receipt["events_url"], after=seen.id, url=elsewhere) as there:
            gate.set()
            later, all_ = await there.rest(), await here.rest()
    assert later == all_[all_.index(seen) + 1 :]
    async with following(api, receipt["events_url"], url=elsewhere) as again:
        assert await again.rest() == all_


@pytest.mark.usefixtures("worker")
async def test_after_the_retention_a_snapshot_stands_for_the_rest(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text=_TEXT, gap_seconds=0.002))
    receipt = await api.submit("hello")
    received = await _all(api, receipt)
    account = await system.account()
    root = system.accounts.root_of(account)
    name = keys.EVENTS(root, account.id, receipt["message_id"])
    assert await system.redis.call("DEL", name) == 1
    whole = await _all(api, receipt)
    assert [one.name for one in whole] == ["accepted", "snapshot", "completed"]
    assert whole[1].payload["text"] == _TEXT
    assert whole[-1] == received[-1]
    for one in received[:-1]:
        assert await _all(api, receipt, after=one.id) == whole[1:]
    assert await _all(api, receipt, after=whole[1].id) == whole[1:]
    answer = await api.get(receipt["events_url"], params={"after": received[-1].id})
    assert answer.status_code == 204


async def test_ends_without_an_answer_are_events_too(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    waiting_ = await api.submit("never begun")
    async with following(api, waiting_["events_url"]) as stream:
        assert await stream.next()
        await api.post(waiting_["cancel_url"])
        received = await stream.rest()
    assert [(one.id, one.name) for one in received] == [("0-1", "accepted"), ("1-1", "cancelled")]
    assert await _all(api, waiting_) == received
    await system.worker()
    provider.script.append(ScriptedAnswer(status=401))
    failed = await api.submit("fails", model="alpha")
    received = await _all(api, failed)
    assert received[-1].name == "failed"
    assert received[-1].payload["failure"] == (await api.poll(failed))["failure"]
    assert await _all(api, failed) == received


@pytest.mark.usefixtures("worker")
async def test_a_new_attempt_begins_with_a_reset(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="lost words", gate=asyncio.Event(), gate_after=1))
    provider.script.append(ScriptedAnswer(text=_TEXT))
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as stream:
        await stream.until("delta")
        await system.worker()
        await system.stop(system.workers[0])
        received = await stream.rest()
    assert [one.payload for one in received if one.name == "reset"] == [
        {"type": "reset", "keep": 0}
    ]
    assert "lost" in "".join(one.payload["text"] for one in received if one.name == "delta")
    assert text_of(received) == _TEXT
    assert received[-1].payload["message"]["content"] == _TEXT
    assert await _all(api, receipt) == received


@pytest.mark.usefixtures("worker")
async def test_who_has_to_wait_for_another_try_is_told_so(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(status=429, headers={"retry-after": "60"}))
    receipt = await api.submit("hello", model="alpha")
    async with following(api, receipt["events_url"]) as stream:
        payload = [await stream.until("stage")]
        while payload[-1].payload["stage"] != "retrying":
            payload.append(await stream.until("stage"))
        assert (await api.poll(receipt))["stage"] == "retrying"
        await api.post(receipt["cancel_url"])
        received = await stream.rest()
    assert received[-1].name == "cancelled"
    assert await _all(api, receipt) == received
    assert await _all(api, receipt, after=payload[-1].id) == received[-1:]


async def test_what_is_nobodys_or_no_event_s_is_refused(
    system: System, api: ApiClient, other: ApiClient
) -> None:
    receipt = await api.submit("hello")
    path = receipt["events_url"]
    refused(await other.get(path), 404, "GENERATION_NOT_FOUND")
    refused(
        await api.get(path.replace(receipt["message_id"], ids.new_id())),
        404,
        "GENERATION_NOT_FOUND",
    )
    for after in ("1", "1-", "-1", "a-b", "1-1-1", "1-\u0661", "9" * 10 + "-1", " "):
        refused(await api.get(path, params={"after": after}), 400, "INVALID_FIELDS")
    chatting = await system.customer("two", scopes=("chat",))
    refused(await chatting.get(path), 403, "FORBIDDEN")


@pytest.mark.usefixtures("worker")
async def test_an_empty_place_to_go_on_from_is_none(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    await api.wait_for_end(receipt)
    path = receipt["events_url"]
    whole = (await api.get(path)).text
    assert whole.startswith("id: 0-1\n")
    *_, last = re.findall("^id: (.*)$", whole, re.MULTILINE)
    for headers, after in (({"last-event-id": ""}, ""), ({}, ""), ({"last-event-id": ""}, None)):
        query = {} if after is None else {"after": after}
        assert (await api.get(path, headers=headers, params=query)).text == whole
    # An empty `Last-Event-ID` does not hide `after`.
    answer = await api.get(path, headers={"last-event-id": ""}, params={"after": last})
    assert answer.status_code == 204
    answer = await api.get(f"{receipt['poll_url']}?wait=1", headers={"if-none-match": ""})
    assert answer.json()["state"] == "completed"


async def test_an_account_follows_as_many_as_it_may(
    system: System, provider: ScriptedProvider
) -> None:
    system.change_tier("enterprise", waits_max=2)
    await system.front()
    api = await system.customer()
    receipt = await api.submit("hello")
    path = receipt["events_url"]
    async with following(api, path) as one, following(api, path) as two:
        assert await one.next()
        assert await two.next()
        answer = await api.get(path)
        refused(answer, 429, "RATE_LIMITED")
        assert int(answer.headers["retry-after"]) >= 1
    # Its place is free again.
    await waiting.until(lambda: not provider.requests)
    async with following(api, path) as three:
        assert await three.next()


async def test_silence_is_broken(system: System) -> None:
    system.change("api", ping_seconds=0.05)
    await system.front()
    api = await system.customer()
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as stream:
        reading = asyncio.create_task(stream.rest())
        await waiting.until(lambda: len(stream.comments) >= 3)
        await api.post(receipt["cancel_url"])
        assert (await reading)[-1].name == "cancelled"


async def test_a_deadline_ends_the_stream_although_no_worker_lives(system: System) -> None:
    system.change("api", ping_seconds=0.05)
    await system.front()
    api = await system.customer()
    receipt = await api.submit("hello", deadline_seconds=1)
    received = await _all(api, receipt)
    assert [one.name for one in received] == ["accepted", "failed"]
    assert received[-1].payload["failure"]["category"] == "expired"


@pytest.mark.usefixtures("worker")
async def test_who_vanishes_leaves_nothing_and_ends_nothing(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text=_TEXT, gate=gate, gate_after=2))
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as stream:
        await stream.until("delta")
        assert await _subscribers(system, receipt) == 1
    await _nobody_follows(system, receipt)
    gate.set()
    assert (await api.wait_for_end(receipt))["result"]["content"] == _TEXT


@pytest.mark.usefixtures("worker")
async def test_publications_that_are_lost_are_read_from_the_stream(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    # Workers use the same kind of connection.
    system.expected |= {"the listener is away", "the listener is back"}
    gates = [asyncio.Event() for _ in range(2)]
    provider.script.append(
        ScriptedAnswer(text=_TEXT, gate=gates[0], gate_after=2, gap_seconds=0.01)
    )
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as stream:
        await stream.until("delta")
        gates[0].set()
        for _ in range(3):
            await system.redis.call("CLIENT", "KILL", "TYPE", "pubsub")
            await stream.next()
        received = await stream.rest()
    assert text_of(received) == _TEXT
    assert received == await _all(api, receipt)


@pytest.mark.usefixtures("worker")
async def test_a_follower_with_more_events_than_redis_starts_again(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text=_TEXT, gate=gate, gate_after=2))
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as first:
        await first.until("delta")
        async with following(api, receipt["events_url"], after="7-7") as second:
            snapshot = await second.next()
            assert snapshot is not None
            assert snapshot.name == "snapshot"
            gate.set()
            received, whole = await second.rest(), await first.rest()
    assert text_of(received) == _TEXT
    assert received[-1] == whole[-1]
    again = await _all(api, receipt, after="7-7")
    assert [one.name for one in again] == ["snapshot", "completed"]


async def test_head_gets_the_headers_of_the_stream(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    answer = await api.head(receipt["events_url"])
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    refused(await api.get("/api/v1/generate/unknown/events"), 404, "GENERATION_NOT_FOUND")


@pytest.mark.usefixtures("worker")
async def test_a_reader_that_is_stuck_is_cut_and_others_do_not_notice(
    system: System, provider: ScriptedProvider
) -> None:
    system.change("api", stuck_reader_seconds=2.0)
    url = await system.front()
    api = await system.customer()
    text = " ".join(["w" * 4_000] * 1_000)
    provider.script.append(ScriptedAnswer(text=text))
    receipt = await api.submit("hello")
    with stuck(url, receipt["events_url"], api.headers["x-api-key"]):
        received = await _all(api, receipt)
        assert text_of(received) == text
        assert await _subscribers(system, receipt) == 1
        await _nobody_follows(system, receipt)


async def test_who_deletes_the_session_ends_the_stream(system: System, api: ApiClient) -> None:
    receipt = await api.submit("hello")
    async with following(api, receipt["events_url"]) as stream:
        assert await stream.next()
        await api.delete(f"/api/v1/chat/conversations/{receipt['session_id']}")
        assert [one.name for one in await stream.rest()] == ["accepted", "cancelled"]
    await _nobody_follows(system, receipt)
    refused(await api.get(receipt["events_url"]), 404, "GENERATION_NOT_FOUND")
