"""The edge against strangers, on real sockets and on both event loops.

Every connection must end, in the bound, with whole answers or none; every refusal is JSON; nothing is
logged as an error; and the server answers the next one.
"""

import asyncio
import logging
import pickle
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
import uvicorn

from api import edge
from shared import ids
from shared.settings import ApiSettings
from tests.api.strangers import BOUNDS, Answer, Site, running, split
from tests.support import waiting

GET: Final = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
LAST: Final = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST: Final = b"POST /plain HTTP/1.1\r\nHost: a\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"

LOOPS: Final = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]


@pytest.fixture(scope="module", params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(scope="module")
async def one_site() -> AsyncIterator[Site]:
    async with running(timeout_keep_alive=1) as site:
        yield site


@pytest.fixture
async def site(one_site: Site) -> AsyncIterator[Site]:
    """Return the shared server; after the test it holds nothing and still answers."""
    one_site.app.reset()
    yield one_site
    one_site.app.gate.set()
    await one_site.is_empty()
    assert [answer.status for answer in await one_site.ask(LAST)] == [200]


@pytest.fixture(autouse=True)
def errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Return the messages at which an operator would look up; a test must name those it provokes."""
    expected: list[str] = []
    yield expected
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    loud = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert [message.strip() for message in loud] == expected


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["connection"] == "close"
    assert answer.json["success"] is False
    assert answer.json["code"] == code
    assert answer.json["error"].endswith(".")
    assert answer.json["request_id"] == answer.fields["x-request-id"]
    assert ids.is_id(answer.json["request_id"])


INVALID: Final = {
    "words": b"hello there\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00",
    "http2-version": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "http09": b"GET /\r\n\r\n",
    "http12": b"GET / HTTP/1.2\r\n\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "connect-path": b"CONNECT /plain HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute": b"GET http://example.org/plain HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-bare": b"GET http://example.org HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "no-path": b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-utf8": "GET /\u00e9 HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "target-latin1": b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "query-latin1": b"GET /?q=\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-nul": b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-nul-escaped": b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
    "target-del": b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n",
    "length-twice": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length-list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "length-negative": POST + b"Content-Length: -1\r\n\r\n",
    "length-huge": POST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "length-then-chunked": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-then-length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked-twice": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding-unknown": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "encoding-unknown-expect": POST + b"Expect: 100-continue\r\nTransfer-Encoding: gzip\r\n\r\n",
    "field-bare-lf": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "line-bare-lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "field-bare-cr": b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "field-nul": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "name-nul": b"GET / HTTP/1.1\r\nHo\x00st: a\r\n\r\n",
    "name-empty": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "name-space": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "fold": b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "fold-first": b"GET / HTTP/1.1\r\n X: a\r\n\r\n",
    "chunk-size": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "chunk-size-huge": CHUNKED + b"ffffffffffffffffff\r\nabc",
    "chunk-end": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"0\r\nX : y\r\n\r\n",
    "upgrade-connect": b"CONNECT / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
async def test_invalid_http_is_refused_in_json(site: Site, raw: bytes) -> None:
    (answer,) = await site.ask(raw)
    assert_refused(answer, 400, "INVALID_FIELDS")
    assert site.app.seen == []


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
async def test_invalid_http_is_refused_byte_by_byte(site: Site, raw: bytes) -> None:
    (answer,) = await site.ask(*(raw[at : at + 1] for at in range(len(raw))))
    assert_refused(answer, 400, "INVALID_FIELDS")


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
async def test_a_refusal_comes_after_the_answers_owed_before_it(site: Site, raw: bytes) -> None:
    async with site.client() as client:
        await client.send(GET.replace(b"plain", b"gated") + GET + raw)
        site.app.gate.set()
        first, second, refusal = await client.answers()
    assert (first.body, second.body) == (b"/gated ", b"/plain ")
    assert_refused(refusal, 400, "INVALID_FIELDS")


async def test_a_request_id_that_was_read_is_kept(site: Site) -> None:
    (answer,) = await site.ask(b"GET / HTTP/1.1\r\nX-Request-ID: mine-1\r\nHost: a\r\nX : y\r\n\r\n")
    assert_refused(answer, 400, "INVALID_FIELDS")
    assert answer.json["request_id"] == "mine-1"


async def test_a_request_id_of_another_form_is_not_kept(site: Site) -> None:
    (answer,) = await site.ask(b'GET / HTTP/1.1\r\nX-Request-ID: "mine"\r\nHost: a\r\nX : y\r\n\r\n')
    assert_refused(answer, 400, "INVALID_FIELDS")


# The size of a head


def head_of(size: int) -> bytes:
    frame = LAST.replace(b"Host: a\r\n", b"Host: a\r\nX: \r\n")
    return frame.replace(b"X: ", b"X: " + b"x" * (size - len(frame)))


@pytest.mark.parametrize("pieces", [1, 2, 50])
async def test_a_head_as_large_as_the_bound_is_served(site: Site, pieces: int) -> None:
    raw = head_of(BOUNDS.header_bytes_max)
    step = len(raw) // pieces
    (answer,) = await site.ask(*(raw[at : at + step] for at in range(0, len(raw), step)))
    assert answer.body == b"/last "


@pytest.mark.parametrize("pieces", [1, 2, 50])
async def test_a_head_larger_than_the_bound_is_refused(site: Site, pieces: int) -> None:
    raw = head_of(BOUNDS.header_bytes_max + 1)
    step = len(raw) // pieces
    (answer,) = await site.ask(*(raw[at : at + step] for at in range(0, len(raw), step)))
    assert_refused(answer, 431, "HEADERS_TOO_LARGE")
    assert site.app.seen == []


async def test_many_small_fields_are_refused(site: Site) -> None:
    raw = b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 5_000 + b"\r\n"
    (answer,) = await site.ask(raw)
    assert_refused(answer, 431, "HEADERS_TOO_LARGE")


async def test_a_large_body_in_the_read_of_the_head_is_no_large_head(site: Site) -> None:
    body = b"x" * 50_000
    raw = b"POST /plain HTTP/1.1\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n" + body
    (answer,) = await site.ask(raw)
    assert answer.body == b"/plain " + body


async def test_a_large_head_of_a_later_request_is_refused(site: Site) -> None:
    first, second = await site.ask(GET + head_of(BOUNDS.header_bytes_max + 1))
    assert first.status == 200
    assert_refused(second, 431, "HEADERS_TOO_LARGE")


ENDLESS: Final = {
    "target": b"GET /",
    "name": b"GET / HTTP/1.1\r\nX",
    "value": b"GET / HTTP/1.1\r\nX: ",
    "upgrade": b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nX: ",
    "trailer": CHUNKED + b"1\r\na\r\n0\r\nX: ",
    "extension": CHUNKED + b"1;x=",
}


@pytest.mark.parametrize("start", ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_never_ends_is_refused_and_not_kept(site: Site, start: bytes) -> None:
    piece = b"x" * 10_000
    async with site.client() as client:
        await client.send(start)
        tracemalloc.start()
        try:
            client.send_aside(*[piece] * 1_000)
            (answer,) = await client.answers()
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert_refused(answer, 431, "HEADERS_TOO_LARGE")
    assert peak_bytes < 1_500_000


async def test_trailers_are_bounded_and_never_become_fields(site: Site) -> None:
    raw = b"POST /plain HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    (answer,) = await site.ask(raw, b"3\r\nabc\r\n", b"0\r\nX-Api-Key: stolen\r\n\r\n")
    assert answer.body == b"/plain abc"
    assert [name for name, _ in site.app.seen[0][1]] == [b"connection", b"transfer-encoding"]


async def test_a_body_of_many_small_chunks_is_no_large_head(site: Site) -> None:
    raw = b"POST /plain HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    (answer,) = await site.ask(raw, *[b"1\r\nx\r\n" * 2_000] * 5, b"0\r\n\r\n")
    assert answer.body == b"/plain " + b"x" * 10_000


# The time of a head


async def elapsed(site: Site, *pieces: bytes) -> tuple[float, list[Answer]]:
    loop = asyncio.get_running_loop()
    start = loop.time()
    found = await site.ask(*pieces)
    return loop.time() - start, found


@pytest.mark.parametrize("start", [b"G", GET[:-1], POST])
async def test_a_head_that_does_not_come_is_cut(site: Site, start: bytes) -> None:
    seconds, (answer,) = await elapsed(site, start)
    assert_refused(answer, 408, "REQUEST_TIMEOUT")
    assert 0.25 < seconds < 1


async def test_a_head_that_drips_is_cut(site: Site) -> None:
    loop = asyncio.get_running_loop()
    async with site.client() as client:
        start = loop.time()
        reading = asyncio.create_task(client.answers())
        while not reading.done():
            await client.send(b"GET / HTTP/1.1\r\n" if start == loop.time() else b"a:b\r\n")
            await asyncio.wait([reading], timeout=0.02)
        (answer,) = reading.result()
    assert answer.status in {408, 400}
    assert 0.25 < loop.time() - start < 1


async def test_a_later_head_that_drips_is_cut(site: Site) -> None:
    async with site.client() as client:
        await client.send(GET)
        assert (await client.answer()).status == 200
        reading = asyncio.create_task(client.answers())
        await client.send(b"GET / HTTP/1.1\r\n")
        while not reading.done():
            await client.send(b"a:b\r\n")
            await asyncio.wait([reading], timeout=0.02)
        (answer,) = reading.result()
    assert_refused(answer, 408, "REQUEST_TIMEOUT")


async def test_a_half_head_behind_a_request_waits_for_its_answer(site: Site) -> None:
    async with site.client() as client:
        await client.send(GET.replace(b"plain", b"gated") + GET[:10])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.read(), 2 * BOUNDS.header_seconds)
        site.app.gate.set()
        first, second = await client.answers()
    assert first.status == 200
    assert_refused(second, 408, "REQUEST_TIMEOUT")


async def test_who_says_nothing_is_left_without_a_word(site: Site) -> None:
    seconds, found = await elapsed(site)
    assert found == []
    assert 0.25 < seconds < 1


@pytest.mark.parametrize("noise", [b"", b"\r\n"])
async def test_a_connection_without_a_next_request_ends_by_keep_alive(
    site: Site, noise: bytes
) -> None:
    seconds, found = await elapsed(site, GET, *[noise] * 3)
    assert [answer.status for answer in found] == [200]
    assert 0.9 < seconds < 2


async def test_the_rest_of_an_answered_body_is_awaited_for_a_while(site: Site) -> None:
    raw = b"POST /early HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"
    seconds, (answer,) = await elapsed(site, raw, b"x" * 100)
    assert answer.body == b"early"
    assert 0.25 < seconds < 1


async def test_after_the_rest_of_an_answered_body_the_next_request_is_served(site: Site) -> None:
    raw = b"POST /early HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"
    async with site.client() as client:
        await client.send(raw)
        assert (await client.answer()).body == b"early"
        await client.send(b"x" * 100_000, LAST)
        (answer,) = await client.answers()
    assert answer.body == b"/last "


async def test_a_broken_rest_of_an_answered_body_ends_without_a_second_answer(site: Site) -> None:
    raw = b"POST /early HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with site.client() as client:
        await client.send(raw)
        assert (await client.answer()).body == b"early"
        await client.send(b"xyz\r\n")
        assert await client.read_all() == b""


# Readers


async def test_who_reads_nothing_is_cut(site: Site) -> None:
    loop = asyncio.get_running_loop()
    async with site.client(buffer_bytes=4_096) as client:
        await client.send(GET.replace(b"plain", b"large"))
        start = loop.time()
        await waiting.until(lambda: site.app.gone == ["/large"])
        assert 0.35 < loop.time() - start < 1.5


async def test_who_reads_nothing_of_small_pieces_is_cut() -> None:
    """Less waits than would ever stop the application by itself."""
    async with running(buffer_bytes=4_096) as site, site.client(buffer_bytes=4_096) as client:
        await client.send(GET.replace(b"plain", b"drip"))
        await waiting.until(lambda: site.app.gone == ["/drip"])
        await site.is_empty()


async def test_who_reads_nothing_of_an_ended_answer_is_cut() -> None:
    async with running(buffer_bytes=4_096) as site, site.client(buffer_bytes=4_096) as client:
        body = b"x" * 50_000
        start = b"POST /plain HTTP/1.1\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n"
        await client.send(start + body)
        await waiting.until(lambda: site.app.seen)
        await site.is_empty()
        assert len(await client.read_all()) < 50_000


async def test_who_reads_slowly_is_not_cut() -> None:
    """A little is taken every tenth of the bound, over four times the bound."""
    bounds = ApiSettings(stuck_reader_seconds=0.4)
    async with running(bounds, buffer_bytes=4_096) as site:
        async with site.client(buffer_bytes=4_096) as client:
            await client.send(GET.replace(b"plain", b"large"))
            for _ in range(40):
                assert await client.read(3_000)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.04)
            assert site.app.gone == []
        await waiting.until(lambda: site.app.gone == ["/large"])


async def test_an_answer_survives_an_upload_that_nobody_reads(site: Site) -> None:
    raw = b"POST /early?last HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n"
    async with site.client() as client:
        client.send_aside(raw, *[b"x" * 100_000] * 50)
        (answer,) = await client.answers()
    assert answer.body == b"early"


# Pipelining


async def test_requests_behind_one_another_are_answered_in_order(site: Site) -> None:
    names = [f"/{number}".encode() for number in range(17)]
    found = await site.ask(b"".join(GET.replace(b"/plain", name) for name in names) + LAST[:0], b"")
    assert [answer.body for answer in found] == [name + b" " for name in names]


async def test_too_many_requests_behind_one_another_are_refused(site: Site) -> None:
    found = await site.ask(GET * 5_000)
    assert [answer.status for answer in found] == [200] * (edge.PIPELINED_MAX + 1) + [400]
    assert_refused(found[-1], 400, "INVALID_FIELDS")
    assert len(site.app.seen) == edge.PIPELINED_MAX + 1


async def test_who_hangs_up_is_told_to_the_request_that_runs(site: Site) -> None:
    async with site.client() as client:
        await client.send(GET.replace(b"plain", b"drip") + GET * 3)
        assert await client.read()
    await waiting.until(lambda: site.app.gone == ["/drip"])
    await site.is_empty()
    assert site.app.seen == []


# Bodies


async def test_a_body_broken_half_way_is_refused(site: Site) -> None:
    (answer,) = await site.ask(CHUNKED + b"3\r\nabc\r\n", b"xyz\r\n")
    assert_refused(answer, 400, "INVALID_FIELDS")
    assert site.app.gone == ["/plain"]


async def test_a_body_broken_after_the_answer_began_ends_the_answer(site: Site) -> None:
    async with site.client() as client:
        await client.send(CHUNKED.replace(b"plain", b"drip"))
        assert (await client.read()).startswith(b"HTTP/1.1 200 ")
        await client.send(b"xyz\r\n")
        assert b"HTTP/1.1" not in await client.read_all()
    assert site.app.gone == ["/drip"]


async def test_a_broken_body_behind_another_request_is_refused_in_its_turn(site: Site) -> None:
    async with site.client() as client:
        await client.send(GET.replace(b"plain", b"gated") + CHUNKED + b"xyz\r\n" + GET)
        site.app.gate.set()
        first, second = await client.answers()
    assert first.body == b"/gated "
    assert_refused(second, 400, "INVALID_FIELDS")
    assert [path for path, _, _ in site.app.seen] == ["/gated"]


async def test_a_body_asked_for_with_100_is_served(site: Site) -> None:
    async with site.client() as client:
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert await client.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.answer()).body == b"/plain abc"


# Upgrades

WEBSOCKET: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
H2C: Final = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("ask", [WEBSOCKET, H2C], ids=["websocket", "h2c"])
async def test_an_upgrade_is_served_as_a_plain_request(site: Site, ask: bytes) -> None:
    found = await site.ask(b"GET /plain HTTP/1.1\r\n" + ask + b"\r\n" + LAST)
    assert [answer.body for answer in found] == [b"/plain ", b"/last "]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_an_upgrade_with_a_body_is_served_with_it(site: Site, size: int) -> None:
    raw = POST + H2C + b"Content-Length: 3\r\n\r\nabc" + POST + H2C
    raw += b"Transfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n" + LAST
    found = await site.ask(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert [answer.body for answer in found] == [b"/plain abc", b"/plain def", b"/last "]
    assert b"upgrade" not in [name for name, _ in site.app.seen[0][1]]


async def test_an_upgrade_that_closes_is_served(site: Site) -> None:
    (answer,) = await site.ask(LAST.replace(b"close", b"close, upgrade\r\nUpgrade: h2c") + GET)
    assert answer.body == b"/last "


# Where uvicorn would answer by itself


async def test_a_broken_application_answers_in_json(site: Site, errors_logged: list[str]) -> None:
    errors_logged.append("The application broke down.")
    (answer,) = await site.ask(b"GET /broken HTTP/1.1\r\nX-Request-ID: mine-2\r\n\r\n")
    assert_refused(answer, 500, "GENERATION_ERROR")
    assert answer.json["request_id"] == "mine-2"


async def test_a_full_server_answers_in_json(errors_logged: list[str]) -> None:
    errors_logged.append("Exceeded concurrency limit.")
    async with running(limit_concurrency=1) as site:
        (answer,) = await site.ask(b"GET /plain HTTP/1.1\r\nX-Request-ID: mine-3\r\n\r\n")
    assert_refused(answer, 503, "UNAVAILABLE")
    assert answer.fields["retry-after"]
    assert answer.json["request_id"] == "mine-3"


async def test_a_server_that_goes_away_answers_in_json(errors_logged: list[str]) -> None:
    async with running(timeout_graceful_shutdown=0) as site, site.client() as client:
        await client.send(GET.replace(b"plain", b"gated"))
        await waiting.until(lambda: site.app.seen)
        site.server.should_exit = True
        (answer,) = await client.answers()
    assert_refused(answer, 503, "UNAVAILABLE")
    errors_logged += [
        "Cancel 1 running task(s), timeout graceful shutdown exceeded",
        "The application broke down.",
    ]


async def test_a_server_that_goes_away_ends_idle_and_busy_connections() -> None:
    async with running() as site, site.client() as idle, site.client() as busy:
        await idle.send(GET)
        assert (await idle.answer()).status == 200
        await busy.send(GET.replace(b"plain", b"gated"))
        await waiting.until(lambda: len(site.app.seen) == 2)
        site.server.should_exit = True
        assert await idle.read_all() == b""
        site.app.gate.set()
        (answer,) = await busy.answers()
        assert answer.fields["connection"] == "close"


def test_the_configuration_can_be_sent_to_worker_processes() -> None:
    bounds = ApiSettings(header_bytes_max=4_096)
    config = uvicorn.Config("api.app:create", http=edge.protocol(bounds), workers=2)
    sent = pickle.loads(pickle.dumps(config))  # noqa: S301 - our own bytes
    assert sent.http.func is edge.EdgeProtocol
    assert sent.http.args == (bounds,)


# Chance

SEEDS: Final = [
    GET,
    LAST,
    CHUNKED + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    POST + b"Content-Length: 5\r\n\r\nhello",
    POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    POST + H2C + b"Content-Length: 5\r\n\r\nhello",
    b"GET /early?a=%20%41 HTTP/1.1\r\n" + WEBSOCKET + b"\r\n",
    b"GET /early HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    *INVALID.values(),
]
SPICE: Final = [
    *(bytes([byte]) for byte in b"\x00\r\n\t :;,%/?#\x7f\x80\xff"),
    *(b"\r\n", b"\r\n\r\n", b"%00", b"chunked", b"HTTP/1.1", b"0\r\n\r\n", b"Upgrade: h2c\r\n"),
    *(
        b"Connection: upgrade\r\n",
        b"Connection: close\r\n",
        b"Content-Length: 9\r\n",
        b"x" * 20_000,
    ),
]


def mutated(chance: random.Random) -> bytes:
    raw = b"".join(chance.choices(SEEDS, k=chance.randint(1, 3)))
    for _ in range(chance.randint(1, 4)):
        at, end = sorted(chance.choices(range(len(raw) + 1), k=2))
        end = min(end, at + chance.randint(0, 20))
        raw = raw[:at] + chance.choice([b"", raw[at:end] * 2, *SPICE]) + raw[end:]
    return raw


def cut_up(raw: bytes, chance: random.Random) -> list[bytes]:
    places = sorted({0, len(raw), *chance.choices(range(len(raw) + 1), k=chance.randint(0, 4))})
    return [raw[start:end] for start, end in zip(places, places[1:], strict=False)]


@pytest.mark.parametrize("seed", range(6))
async def test_chance_never_breaks_or_holds_the_server(site: Site, seed: int) -> None:
    chance = random.Random(seed)

    async def stranger(raw: bytes) -> None:
        async with site.client() as client:
            await client.send(*cut_up(raw, chance))
            read = (await client.read_all()).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        statuses = {answer.status for answer in split(read)}
        assert statuses <= {200, 400, 408, 431}, (raw, read)

    await asyncio.gather(*(stranger(mutated(chance)) for _ in range(60)))
