"""How long the server waits for clients: heads, next requests, rests of bodies, and readers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from api.server import protocol
from shared.settings import ApiSettings
from tests.api.server.clients import (
    BOUNDS,
    BULK_BYTES,
    CHUNKED,
    GATED,
    GET,
    LAST,
    LAST_POST,
    POST,
    Answer,
    Client,
    RunningServer,
    assert_refused,
    running,
    split,
)
from tests.support import waiting


@pytest.fixture(scope="module")
async def shared_server() -> AsyncIterator[RunningServer]:
    """Return a server whose keep-alive is far from every bound tested here."""
    async with running(keep_alive_seconds=5) as live_server:
        yield live_server


async def elapsed(live_server: RunningServer, *pieces: bytes) -> tuple[float, list[Answer]]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    found = await live_server.ask(*pieces)
    return loop.time() - start, found


async def silence(client: Client, seconds: float) -> None:
    """Let time pass in which nothing arrives; the connection must stay open."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.read(), seconds)


@pytest.mark.parametrize("start", [b"G", GET[:-1], POST])
async def test_a_head_that_does_not_come_is_cut(live_server: RunningServer, start: bytes) -> None:
    seconds, (answer,) = await elapsed(live_server, start)
    assert_refused(answer, 408, "REQUEST_TIMEOUT")
    assert 0.25 < seconds < 4


async def drip(client: Client) -> list[Answer]:
    """Send a field from time to time, until the server refuses."""
    reading = asyncio.create_task(client.answers())
    while not reading.done():
        await client.send(b"a:b\r\n")
        await asyncio.wait([reading], timeout=0.02)
    return reading.result()


async def test_a_head_that_drips_is_cut(live_server: RunningServer) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with live_server.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        (answer,) = await drip(client)
    assert_refused(answer, 408, "REQUEST_TIMEOUT")
    assert 0.25 < loop.time() - start < 4


async def test_a_later_head_that_drips_is_cut(live_server: RunningServer) -> None:
    async with live_server.client() as client:
        await client.send(GET)
        assert (await client.answer()).status == 200
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        (answer,) = await drip(client)
    assert_refused(answer, 408, "REQUEST_TIMEOUT")


async def test_a_half_head_behind_a_request_waits_for_its_answer(
    live_server: RunningServer,
) -> None:
    async with live_server.client() as client:
        await client.send(GATED + LAST[:10])
        await silence(client, 2 * BOUNDS.header_seconds)
        live_server.app.gate.set()
        assert (await client.answer()).body == b"/gated "
        await client.send(LAST[10:])
        (answer,) = await client.answers()
    assert answer.body == b"/last "


async def test_a_half_head_is_awaited_again_once_it_is_its_turn(
    live_server: RunningServer,
) -> None:
    async with live_server.client() as client:
        await client.send(GATED + LAST[:10])
        live_server.app.gate.set()
        first, second = await client.answers()
    assert first.body == b"/gated "
    assert_refused(second, 408, "REQUEST_TIMEOUT")


async def test_an_answer_may_take_longer_than_any_head(live_server: RunningServer) -> None:
    async with live_server.client() as client:
        await client.send(GATED[:10], GATED[10:])
        await silence(client, 2 * BOUNDS.header_seconds)
        live_server.app.gate.set()
        assert (await client.answer()).status == 200
        live_server.app.gate.clear()
        await client.send(GATED[:10], GATED[10:])
        await silence(client, 2 * BOUNDS.header_seconds)
        live_server.app.gate.set()
        assert (await client.answer()).status == 200


async def test_who_says_nothing_is_left_without_a_word(live_server: RunningServer) -> None:
    seconds, found = await elapsed(live_server)
    assert found == []
    assert 0.25 < seconds < 4


@pytest.mark.parametrize("noise", [b"", b"\r\n"])
async def test_a_connection_without_a_next_request_ends_by_keep_alive(noise: bytes) -> None:
    async with running(ApiSettings(), keep_alive_seconds=1) as live_server:
        seconds, found = await elapsed(live_server, GET, *[noise] * 3)
    assert [answer.status for answer in found] == [200]
    assert 0.9 < seconds < 4


async def test_the_rest_of_an_answered_body_is_awaited_for_a_while(
    live_server: RunningServer,
) -> None:
    raw = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    seconds, (answer,) = await elapsed(live_server, raw, b"x" * 100)
    assert answer.body == b"early"
    assert 0.25 < seconds < 4


async def test_after_the_rest_of_an_answered_body_the_next_request_is_served(
    live_server: RunningServer,
) -> None:
    raw = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    async with live_server.client() as client:
        await client.send(raw)
        assert (await client.answer()).body == b"early"
        await client.send(b"x" * 100_000)
        await silence(client, 2 * BOUNDS.header_seconds)
        await client.send(LAST)
        (answer,) = await client.answers()
    assert answer.body == b"/last "


async def test_a_broken_rest_of_an_answered_body_ends_without_a_second_answer(
    live_server: RunningServer,
) -> None:
    raw = b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with live_server.client() as client:
        await client.send(raw)
        assert (await client.answer()).body == b"early"
        await client.send(b"xyz\r\n")
        assert await client.read_all() == b""


# Readers


async def test_who_reads_nothing_is_cut(live_server: RunningServer) -> None:
    loop = asyncio.get_running_loop()
    async with live_server.client(buffer_bytes=4_096) as client:
        await client.send(GET.replace(b"plain", b"large"))
        start = loop.time()
        await waiting.until(lambda: live_server.app.gone == ["/large"])
        assert 0.35 < loop.time() - start < 4


async def test_a_client_that_reads_no_small_pieces_is_cut() -> None:
    """Less is unread than would ever pause the application."""
    async with (
        running(buffer_bytes=4_096) as live_server,
        live_server.client(buffer_bytes=4_096) as client,
    ):
        await client.send(GET.replace(b"plain", b"drip"))
        await waiting.until(lambda: live_server.app.gone == ["/drip"])
        await live_server.is_empty()


async def test_who_reads_nothing_of_an_ended_answer_is_cut() -> None:
    async with (
        running(buffer_bytes=4_096) as live_server,
        live_server.client(buffer_bytes=4_096) as client,
    ):
        body = b"x" * 50_000
        start = (
            b"POST /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n"
        )
        await client.send(start + body)
        await waiting.until(lambda: live_server.app.seen)
        await live_server.is_empty()
        assert len(await client.read_all()) < 50_000


@pytest.mark.parametrize("path", [b"large", b"drip"])
async def test_a_slow_reader_is_not_cut(path: bytes) -> None:
    """It reads a little every tenth of the bound, over four times the bound."""
    async with running(buffer_bytes=4_096) as live_server:
        async with live_server.client(buffer_bytes=4_096) as client:
            await client.send(GET.replace(b"plain", path))
            for _ in range(40):
                assert await client.read(3_000)
                await pause(0.04)
            assert live_server.app.gone == []
        await waiting.until(lambda: live_server.app.gone == [f"/{path.decode()}"])


async def pause(seconds: float) -> None:
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, later.set)
    await later.wait()


async def test_who_reads_the_last_answer_slowly_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.1)
    async with (
        running(buffer_bytes=4_096) as live_server,
        live_server.client(buffer_bytes=4_096) as client,
    ):
        await client.send(GET.replace(b"plain", b"bulk"))
        read = b""
        while piece := await client.read(3_000):
            read += piece
            await pause(0.04)
    (answer,) = split(read)
    assert len(answer.body) == BULK_BYTES


async def test_an_answer_survives_an_upload_that_nobody_reads(
    live_server: RunningServer,
) -> None:
    raw = b"POST /early?last HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n"
    async with live_server.client() as client:
        client.send_aside(raw, *[b"x" * 100_000] * 50)
        (answer,) = await client.answers()
    assert answer.body == b"early"


LASTING = {
    "refused": b"hello\r\n\r\n",
    "refused-body": CHUNKED + b"xyz\r\n",
    "answered": b"GET /early?last HTTP/1.1\r\nHost: a\r\n\r\n",
    "answered-early": b"POST /early?last HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
    "promised": LAST_POST.replace(b"plain", b"early") + b"Content-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("raw", LASTING.values(), ids=LASTING.keys())
@pytest.mark.parametrize("more", [b"", b"x"], ids=["silent", "sending"])
async def test_who_stays_after_the_end_is_listened_to_for_a_moment(
    live_server: RunningServer, raw: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    async with live_server.client() as client:
        start = loop.time()
        await client.send(raw)
        assert len(await client.answers()) == 1
        client.send_aside(*[more] * 100_000 * len(more))
        await live_server.is_empty()
        assert 0.15 < loop.time() - start < 4


async def test_who_promised_to_end_is_closed_at_once(
    live_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 60)
    async with live_server.client() as client:
        await client.send(LAST)
        assert len(await client.answers()) == 1
        await live_server.is_empty()
