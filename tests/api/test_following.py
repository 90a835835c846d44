"""Followers beside others, after a failover, and while their API server has trouble."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api.follow import ring, stored_events, stream as streams
from api.follow.event_ids import EventNumber
from api.follow.stored_events import EventPage
from shared.errors import StoreError, UnavailableError, WrongTypeError
from shared.redis import keys
from shared.redis.functions import Claimed
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body
from tests.support.redis_functions import RedisFunctions
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.stream_reader import following, read_events, text_of
from tests.support.system import System
from tests.worker.front import Front, Ticket

_AT_ONCE_SECONDS = 5.0


async def _where(system: System, receipt: Json) -> tuple[str, str, str]:
    account = await system.account()
    return system.accounts.root_of(account), account.id, receipt["message_id"]


async def _is_subscribed(system: System, receipt: Json) -> bool:
    """Whether an API server is subscribed to a generation."""
    channel = keys.events_channel(*await _where(system, receipt))
    _, count = await system.redis.call("PUBSUB", "NUMSUB", channel)
    return int(count) == 1


async def _claimed(system: System, receipt: Json) -> tuple[RedisFunctions, Claimed]:
    """Claim a generation in place of a worker."""
    root, account, id_ = await _where(system, receipt)
    front = Front(system.redis, system.settings)
    claimed = await front.claim(Ticket(root, account, receipt["session_id"], id_))
    return RedisFunctions(
        system.redis, system.settings.redis, (await system.account()).partition
    ), claimed


async def _append_unpublished(system: System, claimed: Claimed, seq: int, text: str) -> None:
    """Append a delta whose publication is lost."""
    ref = (claimed.root, claimed.account, claimed.id)
    event = f'{{"type":"delta","text":"{text}"}}'
    for command in (
        ("XADD", keys.EVENTS(*ref), f"{claimed.attempt}-{seq}", "e", event),
        ("APPEND", keys.TEXT(*ref), text),
        ("HSET", keys.GENERATION(*ref), "seq", seq),
    ):
        await system.redis.call(*command)


@pytest.mark.usefixtures("worker")
async def test_a_follower_beside_a_wait_gets_the_events_so_far(
    system: System, api: ApiClient, provider: ScriptedProvider
) -> None:
    """The server is subscribed already, and no new event wakes the follower."""
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two three", gate=gate, gate_after=2))
    receipt = await api.submit("hello")
    waiter = asyncio.create_task(api.wait_for_end(receipt))
    await waiting.until(lambda: _is_subscribed(system, receipt))

    async def has_text() -> bool:
        return bool((await api.poll(receipt))["result"]["content"])

    await waiting.until(has_text)
    async with following(api, receipt["events_url"]) as stream:
        async with asyncio.timeout(_AT_ONCE_SECONDS):
            await stream.until("delta")
        gate.set()
        received = await stream.rest()
    assert text_of(received) == (await waiter)["result"]["content"] == "one two three"
    assert body(await api.get(receipt["poll_url"]))["state"] == "completed"


async def test_who_has_heard_more_than_this_front_goes_on_without_a_snapshot(
    system: System, api: ApiClient
) -> None:
    receipt = await api.submit("hello")
    queue, claimed = await _claimed(system, receipt)
    await queue.append(claimed, 1, "one ")
    async with following(api, receipt["events_url"]) as here:
        await here.until("delta")
        await _append_unpublished(system, claimed, 2, "two ")
        async with following(api, receipt["events_url"], after="1-2") as from_elsewhere:
            await queue.append(claimed, 3, "three")
            await queue.settle(claimed, seq=4, text="one two three")
            received = await from_elsewhere.rest()
        whole = await here.rest()
    assert [(one.id, one.name) for one in received] == [("1-3", "delta"), ("1-4", "completed")]
    assert text_of(whole) == "one two three"
    assert whole[-2:] == received


async def test_a_follower_gets_one_snapshot(system: System, api: ApiClient) -> None:
    """This server does not yet have all that the snapshot replaces."""
    receipt = await api.submit("hello")
    queue, claimed = await _claimed(system, receipt)
    await queue.append(claimed, 1, "one ")
    async with following(api, receipt["events_url"]) as here:
        await here.until("delta")
        await _append_unpublished(system, claimed, 2, "two ")
        async with following(api, receipt["events_url"], after="7-7") as from_elsewhere:
            assert await from_elsewhere.next()
            await queue.append(claimed, 3, "three")
            await queue.settle(claimed, seq=4, text="one two three")
            received = await from_elsewhere.rest()
        await here.rest()
    assert [(one.id, one.name) for one in received] == [
        ("1-2", "snapshot"),
        ("1-3", "delta"),
        ("1-4", "completed"),
    ]
    assert text_of(received) == "one two three"


async def test_a_follower_before_the_oldest_event_gets_a_snapshot(
    system: System, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither this server nor the stream has the beginning of the answer any more."""
    monkeypatch.setattr(ring, "BYTES_MAX", 4_000)
    receipt = await api.submit("hello")
    queue, claimed = await _claimed(system, receipt)
    words = [f"{number:0200}" for number in range(30)]
    async with following(api, receipt["events_url"]) as here:
        for seq, word in enumerate(words, 1):
            await queue.append(claimed, seq, word)
            await here.until("delta")
        await system.redis.call("DEL", keys.EVENTS(claimed.root, claimed.account, claimed.id))
        async with following(api, receipt["events_url"]) as late:
            async with asyncio.timeout(_AT_ONCE_SECONDS):
                await late.until("snapshot")
            await queue.settle(claimed, seq=31, text="".join(words))
            received = await late.rest()
    assert [one.name for one in received] == ["accepted", "snapshot", "completed"]
    assert text_of(received) == "".join(words)


async def test_a_lost_stream_is_sent_from_the_record(system: System, api: ApiClient) -> None:
    receipt = await api.submit("hello")
    queue, claimed = await _claimed(system, receipt)
    for seq, word in enumerate(("one ", "two ", "three "), 1):
        await queue.append(claimed, seq, word)
    await system.redis.call("DEL", keys.EVENTS(claimed.root, claimed.account, claimed.id))
    async with following(api, receipt["events_url"], after="1-2") as stream:
        async with asyncio.timeout(_AT_ONCE_SECONDS):
            assert await stream.next()
        await queue.append(claimed, 4, "four")
        await stream.until("delta")
        await queue.settle(claimed, seq=5, text="one two three four")
        received = await stream.rest()
    assert [(one.id, one.name) for one in received] == [
        ("1-3", "snapshot"),
        ("1-4", "delta"),
        ("1-5", "completed"),
    ]
    assert text_of(received) == "one two three four"


async def test_followers_and_polls_have_the_same_text_after_rounds_are_kept(
    system: System, api: ApiClient
) -> None:
    """A client that was there, one that comes now, and one that continues in the middle."""
    # One to four bytes a character.
    kept, unfinished, rest = "Let me look \u00e9\u20ac\U0001f600. ", "\U0001f680 lost", "\u2603!"
    receipt = await api.submit("hello")
    queue, claimed = await _claimed(system, receipt)

    async def check(text: str, last: str, after: str) -> None:
        assert (await api.poll(receipt))["result"]["content"] == text
        async with asyncio.timeout(_AT_ONCE_SECONDS):
            for follower in (here, late):
                while follower.received[-1].id != last:
                    assert await follower.next()
                assert text_of(follower.received) == text
            async with following(api, receipt["events_url"], after=after) as middle:
                while not middle.received or middle.received[-1].id != last:
                    assert await middle.next()
        seen = [one for one in here.received if one not in middle.received]
        assert text_of([*seen, *middle.received]) == text

    async with (
        following(api, receipt["events_url"]) as here,
        following(api, receipt["events_url"]) as late,
    ):
        await here.until("accepted")
        await queue.finish_round(claimed, 1, kept)
        await queue.append(claimed, 2, unfinished)
        await late.until("accepted")
        await check(kept + unfinished, "1-2", "1-1")
        await queue.release(claimed)
        queue, claimed = await _claimed(system, receipt)
        await check(kept, "2-1", "1-2")
        await queue.append(claimed, 2, rest)
        await check(kept + rest, "2-2", "1-2")
        await queue.release(claimed)
        queue, claimed = await _claimed(system, receipt)
        await check(kept, "3-1", "2-1")
    await system.redis.call("DEL", keys.EVENTS(claimed.root, claimed.account, claimed.id))
    async with following(api, receipt["events_url"], after="2-2") as lost:
        async with asyncio.timeout(_AT_ONCE_SECONDS):
            assert await lost.next()
        assert (lost.received[0].name, text_of(lost.received)) == ("snapshot", kept)
        await queue.settle(claimed, seq=2, text=kept, stage="failed")
        await lost.rest()


async def test_a_follower_ahead_of_redis_starts_again(system: System, api: ApiClient) -> None:
    """As after a failover to a replica that lacks the last events."""
    system.expected.add("a stream could not be read")
    receipt = await api.submit("hello")
    queue, claimed = await _claimed(system, receipt)
    ref = (claimed.root, claimed.account, claimed.id)
    await queue.append(claimed, 1, "one ")
    await queue.append(claimed, 2, "lost ")
    await queue.append(claimed, 3, "words")
    async with following(api, receipt["events_url"]) as stream:
        while (await stream.until("delta")).id != "1-3":
            pass
        for seq in (2, 3):
            await system.redis.call("XDEL", keys.EVENTS(*ref), f"1-{seq}")
        await system.redis.call("SET", keys.TEXT(*ref), "one ")
        await system.redis.call("HSET", keys.GENERATION(*ref), "seq", 1)
        await system.redis.call("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await stream.rest())[-1].id == "1-3"
    async with following(api, receipt["events_url"], after="1-3") as again:
        snapshot = await again.next()
        assert snapshot is not None
        assert (snapshot.id, snapshot.payload["text"]) == ("1-1", "one ")
        await api.post(receipt["cancel_url"])
        await queue.release(claimed)
        assert [one.name for one in await again.rest()] == ["snapshot", "cancelled"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "error", [UnavailableError("away"), StoreError("odd"), WrongTypeError("overwritten")]
)
async def test_trouble_in_the_middle_ends_the_answer_between_two_events(
    system: System, api: ApiClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    receipt = await api.submit("hello")
    await api.wait_for_end(receipt)

    read = stored_events.read_page
    pages: list[EventPage] = []

    async def read_page(*place: Any) -> EventPage:  # noqa: ANN401  as it is called
        if pages:
            raise error
        page = await read(*place)
        assert page is not None
        pages.append(page._replace(has_end=False))
        return pages[0]

    with monkeypatch.context() as patched:
        patched.setattr(streams, "read_page", read_page)
        async with following(api, receipt["events_url"]) as stream:
            if isinstance(error, StoreError):
                system.expected |= (
                    {"a key is of another type"}
                    if isinstance(error, WrongTypeError)
                    else {"unexpected", "The application failed."}
                )
                with pytest.raises(httpx.RemoteProtocolError):
                    await stream.rest()
            else:
                system.expected.add("unavailable")
                await stream.rest()
        assert stream.received[0].name == "accepted"
        assert EventNumber.of(stream.received[-1].id) == pages[0].last
    async with following(api, receipt["events_url"], after=stream.received[-1].id) as again:
        assert (await again.rest())[-1].name == "completed"


@pytest.mark.usefixtures("worker")
async def test_an_http_1_0_client_reads_to_the_end_of_the_connection(
    system: System, api: ApiClient
) -> None:
    """HTTP/1.0 has no chunks."""
    receipt = await api.submit("hello")
    await api.wait_for_end(receipt)
    place = urlsplit(system.url)
    key = api.headers["x-api-key"]
    for path in (receipt["events_url"], receipt["poll_url"]):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"GET {path} HTTP/1.0\r\nX-API-Key: {key}\r\n\r\n".encode())
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"transfer-encoding" not in head
        if path == receipt["poll_url"]:
            assert json.loads(content)["state"] == "completed"
        else:
            assert content.startswith(b"id: 0-1\nevent: accepted\n")
            assert read_events(content)[-1].name == "completed"
