"""A server that shuts down while messages arrive: what is accepted is never refused."""

import asyncio
from urllib.parse import urlsplit

import pytest

from api.accept.accept import Receipt, Submissions
from api.server.protocol import BoundedHttpProtocol
from tests.api.kombify_client import CHAT, payload
from tests.support import waiting
from tests.support.api_client import ApiClient
from tests.support.stream_reader import read_events
from tests.support.system import System


@pytest.fixture
async def one_accepted(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold every message, once accepted, until the server shuts down; set when one is accepted."""
    accepted, shut_down = asyncio.Event(), asyncio.Event()
    original_accept, original_shutdown = Submissions.accept, BoundedHttpProtocol.shutdown

    async def accept_and_hold(*asked: object, **more: object) -> Receipt:
        receipt = await original_accept(*asked, **more)  # type: ignore[arg-type]  # what it was asked
        accepted.set()
        await shut_down.wait()
        return receipt

    def shutdown(protocol: BoundedHttpProtocol) -> None:
        original_shutdown(protocol)
        shut_down.set()

    monkeypatch.setattr(Submissions, "accept", accept_and_hold)
    monkeypatch.setattr(BoundedHttpProtocol, "shutdown", shutdown)
    return accepted


async def test_a_wait_that_would_begin_gets_its_poll_url(
    system: System, api: ApiClient, one_accepted: asyncio.Event
) -> None:
    sending = asyncio.create_task(api.post(CHAT, json={"message": "hello"}))
    await one_accepted.wait()
    await system.stop_front(system.url)
    said = payload(await sending, 202)
    assert said["state"] == "processing"


async def test_the_next_request_on_the_connection_is_answered_too(
    system: System, api: ApiClient, one_accepted: asyncio.Event
) -> None:
    place = urlsplit(system.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    content = b'{"message": "hello"}'
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: pollux\r\nX-API-Key: {api.headers['x-api-key']}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    writer.write((head.encode() + content) * 2)
    await one_accepted.wait()
    await system.stop_front(system.url)
    answers = await reader.read()
    writer.close()
    assert answers.count(b"HTTP/1.1 202 ") == 2


async def test_who_would_begin_to_follow_is_told_where_to_go_on(
    system: System, api: ApiClient, one_accepted: asyncio.Event
) -> None:
    asked = {"message": "hello", "stream": True}
    sending = asyncio.create_task(api.post(CHAT, json=asked))
    await one_accepted.wait()
    await system.stop_front(system.url)
    answer = await sending
    assert [one.name for one in read_events(answer.content)] == ["accepted"]
    assert answer.text.endswith(": going away; go on after the last id\n\n")
    await waiting.until(sending.done)
