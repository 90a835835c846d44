"""What is refused, and how: each refusal is JSON, in order, and closes the connection."""

import gc
import pickle
import tracemalloc
from typing import Final

import pytest
import uvicorn

from api.server import protocol
from shared.settings import ApiSettings
from tests.api.server.clients import (
    BOUNDS,
    CHUNKED,
    GATED,
    GET,
    H2C,
    INVALID,
    LAST,
    LAST_POST,
    POST,
    WEBSOCKET,
    RunningServer,
    assert_refused,
    running,
)
from tests.support import waiting


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
async def test_invalid_http_is_refused_in_json(live_server: RunningServer, raw: bytes) -> None:
    (answer,) = await live_server.ask(raw)
    assert_refused(answer, 400, "INVALID_FIELDS")
    assert live_server.app.seen == []
    assert live_server.app.gone == []


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
async def test_invalid_http_is_refused_byte_by_byte(live_server: RunningServer, raw: bytes) -> None:
    (answer,) = await live_server.ask(*(raw[at : at + 1] for at in range(len(raw))))
    assert_refused(answer, 400, "INVALID_FIELDS")


@pytest.mark.parametrize("raw", INVALID.values(), ids=INVALID.keys())
async def test_a_refusal_comes_after_the_answers_owed_before_it(
    live_server: RunningServer, raw: bytes
) -> None:
    async with live_server.client() as client:
        await client.send(GATED + GET + raw)
        live_server.app.gate.set()
        first, second, refusal = await client.answers()
    assert (first.body, second.body) == (b"/gated ", b"/plain ")
    assert_refused(refusal, 400, "INVALID_FIELDS")


async def test_a_request_id_that_was_read_is_kept(live_server: RunningServer) -> None:
    (answer,) = await live_server.ask(
        b"GET / HTTP/1.1\r\nX-Request-ID: mine-1\r\nHost: a\r\nX : y\r\n\r\n"
    )
    assert_refused(answer, 400, "INVALID_FIELDS")
    assert answer.json["request_id"] == "mine-1"


async def test_a_request_id_of_another_form_is_not_kept(live_server: RunningServer) -> None:
    (answer,) = await live_server.ask(
        b'GET / HTTP/1.1\r\nX-Request-ID: "mine"\r\nHost: a\r\nX : y\r\n\r\n'
    )
    assert_refused(answer, 400, "INVALID_FIELDS")


# The size of a head


def head_of(size: int) -> bytes:
    frame = LAST.replace(b"Host: a\r\n", b"Host: a\r\nX: \r\n")
    return frame.replace(b"X: ", b"X: " + b"x" * (size - len(frame)))


@pytest.mark.parametrize("pieces", [1, 2, 50])
async def test_a_head_as_large_as_the_bound_is_served(
    live_server: RunningServer, pieces: int
) -> None:
    raw = head_of(BOUNDS.header_bytes_max)
    step = len(raw) // pieces
    (answer,) = await live_server.ask(*(raw[at : at + step] for at in range(0, len(raw), step)))
    assert answer.body == b"/last "


@pytest.mark.parametrize("pieces", [1, 2, 50])
async def test_a_head_larger_than_the_bound_is_refused(
    live_server: RunningServer, pieces: int
) -> None:
    raw = head_of(BOUNDS.header_bytes_max + 1)
    step = len(raw) // pieces
    (answer,) = await live_server.ask(*(raw[at : at + step] for at in range(0, len(raw), step)))
    assert_refused(answer, 431, "HEADERS_TOO_LARGE")
    assert live_server.app.seen == []


async def test_many_small_fields_are_refused(live_server: RunningServer) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 5_000 + b"\r\n"
    (answer,) = await live_server.ask(raw)
    assert_refused(answer, 431, "HEADERS_TOO_LARGE")


async def test_a_large_body_in_the_read_of_the_head_is_no_large_head(
    live_server: RunningServer,
) -> None:
    body = b"x" * 50_000
    raw = (
        b"POST /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n"
        + body
    )
    (answer,) = await live_server.ask(raw)
    assert answer.body == b"/plain " + body


async def test_a_large_head_of_a_later_request_is_refused(live_server: RunningServer) -> None:
    first, second = await live_server.ask(GET + head_of(BOUNDS.header_bytes_max + 1))
    assert first.status == 200
    assert_refused(second, 431, "HEADERS_TOO_LARGE")


ENDLESS: Final = {
    "target": b"GET /",
    "name": b"GET / HTTP/1.1\r\nHost: a\r\nX",
    "value": b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nX: ",
    "trailer": CHUNKED + b"1\r\na\r\n0\r\nX: ",
    "extension": CHUNKED + b"1;x=",
}


@pytest.mark.parametrize("start", ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_never_ends_is_refused_and_not_kept(
    live_server: RunningServer, start: bytes
) -> None:
    piece = b"x" * 10_000
    async with live_server.client() as client:
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


async def test_trailers_are_bounded_and_never_become_fields(live_server: RunningServer) -> None:
    raw = LAST_POST + b"Transfer-Encoding: chunked\r\n\r\n"
    (answer,) = await live_server.ask(raw, b"3\r\nabc\r\n", b"0\r\nX-Api-Key: stolen\r\n\r\n")
    assert answer.body == b"/plain abc"
    assert [name for name, _ in live_server.app.seen[0][1]] == [
        *(b"host", b"connection", b"transfer-encoding"),
    ]


async def test_a_long_head_and_a_long_chunk_extension_are_bounded_each(
    live_server: RunningServer,
) -> None:
    head = head_of(12_000).replace(b"GET /last", b"POST /plain")[:-2]
    (answer,) = await live_server.ask(
        head[:100],
        head[100:] + b"Transfer-Encoding: chunked\r\n\r\n",
        b"3;" + b"x" * 6_000,
        b"\r\nabc\r\n0\r\n\r\n",
    )
    assert answer.body == b"/plain abc"


async def test_a_body_of_many_small_chunks_is_no_large_head(live_server: RunningServer) -> None:
    raw = LAST_POST + b"Transfer-Encoding: chunked\r\n\r\n"
    (answer,) = await live_server.ask(raw, *[b"1\r\nx\r\n" * 2_000] * 5, b"0\r\n\r\n")
    assert answer.body == b"/plain " + b"x" * 10_000


# Pipelining


async def test_requests_behind_one_another_are_answered_in_order(
    live_server: RunningServer,
) -> None:
    names = [f"/{number}".encode() for number in range(17)]
    found = await live_server.ask(
        b"".join(GET.replace(b"/plain", name) for name in names[1:]) + LAST
    )
    assert [answer.body for answer in found] == [name + b" " for name in [*names[1:], b"/last"]]


async def test_requests_answered_unread_do_not_stop_the_reading(
    live_server: RunningServer,
) -> None:
    early = GET.replace(b"plain", b"early")
    found = await live_server.ask(early * 3, LAST)
    assert [answer.body for answer in found] == [b"early"] * 3 + [b"/last "]


async def test_too_many_requests_behind_one_another_are_refused(
    live_server: RunningServer,
) -> None:
    found = await live_server.ask(GET * 5_000)
    assert [answer.status for answer in found] == [200] * (protocol.PIPELINED_MAX + 1) + [400]
    assert_refused(found[-1], 400, "INVALID_FIELDS")
    assert len(live_server.app.seen) == protocol.PIPELINED_MAX + 1


async def test_who_hangs_up_is_told_to_the_request_that_runs(live_server: RunningServer) -> None:
    async with live_server.client() as client:
        await client.send(GET.replace(b"plain", b"drip") + GET * 3)
        assert await client.read()
    await waiting.until(lambda: live_server.app.gone == ["/drip"])
    await live_server.is_empty()
    assert live_server.app.seen == []


# Bodies


async def test_a_body_broken_half_way_is_refused(live_server: RunningServer) -> None:
    (answer,) = await live_server.ask(CHUNKED + b"3\r\nabc\r\n", b"xyz\r\n")
    assert_refused(answer, 400, "INVALID_FIELDS")
    assert live_server.app.gone == ["/plain"]


async def test_a_body_broken_after_the_answer_began_ends_the_answer(
    live_server: RunningServer,
) -> None:
    async with live_server.client() as client:
        await client.send(CHUNKED.replace(b"plain", b"drip"))
        assert (await client.read()).startswith(b"HTTP/1.1 200 ")
        await client.send(b"xyz\r\n")
        assert b"HTTP/1.1" not in await client.read_all()
    assert live_server.app.gone == ["/drip"]


async def test_a_broken_body_behind_another_request_is_refused_in_its_turn(
    live_server: RunningServer,
) -> None:
    async with live_server.client() as client:
        await client.send(GATED + CHUNKED + b"xyz\r\n" + GET)
        live_server.app.gate.set()
        first, second = await client.answers()
    assert first.body == b"/gated "
    assert_refused(second, 400, "INVALID_FIELDS")
    assert [path for path, _, _ in live_server.app.seen] == ["/gated"]


async def test_a_body_broken_before_it_was_asked_for_is_refused(
    live_server: RunningServer,
) -> None:
    head = CHUNKED.replace(b"plain", b"later").replace(b"Host", b"Expect: 100-continue\r\nHost")
    async with live_server.client() as client:
        await client.send(head, b"xyz\r\n")
        (answer,) = await client.answers()
        live_server.app.gate.set()
        await waiting.until(lambda: live_server.app.gone == ["/later"])
    assert_refused(answer, 400, "INVALID_FIELDS")


async def test_a_body_asked_for_with_100_is_served(live_server: RunningServer) -> None:
    async with live_server.client() as client:
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert await client.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.answer()).body == b"/plain abc"


async def test_a_body_is_not_asked_for_with_100_in_http_1_0(live_server: RunningServer) -> None:
    head = POST.replace(b"HTTP/1.1", b"HTTP/1.0")
    raw = head + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    (answer,) = await live_server.ask(raw, b"abc")
    assert (answer.status, answer.body) == (200, b"/plain abc")


# Upgrades


@pytest.mark.parametrize("ask", [WEBSOCKET, H2C], ids=["websocket", "h2c"])
async def test_an_upgrade_is_served_as_a_plain_request(
    live_server: RunningServer, ask: bytes
) -> None:
    found = await live_server.ask(b"GET /plain HTTP/1.1\r\nHost: a\r\n" + ask + b"\r\n" + LAST)
    assert [answer.body for answer in found] == [b"/plain ", b"/last "]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_an_upgrade_with_a_body_is_served_with_it(
    live_server: RunningServer, size: int
) -> None:
    raw = POST + H2C + b"Content-Length: 3\r\n\r\nabc" + POST + H2C
    raw += b"Transfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n" + LAST
    found = await live_server.ask(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert [answer.body for answer in found] == [b"/plain abc", b"/plain def", b"/last "]
    assert b"upgrade" not in [name for name, _ in live_server.app.seen[0][1]]


async def test_an_upgrade_that_closes_is_served(live_server: RunningServer) -> None:
    (answer,) = await live_server.ask(
        LAST.replace(b"close", b"close, upgrade\r\nUpgrade: h2c") + GET
    )
    assert answer.body == b"/last "


# Where uvicorn would answer by itself


async def test_a_broken_application_answers_in_json(
    live_server: RunningServer, errors_logged: list[str]
) -> None:
    errors_logged.append("The application failed.")
    (answer,) = await live_server.ask(
        b"GET /broken HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine-2\r\n\r\n"
    )
    assert_refused(answer, 500, "GENERATION_ERROR")
    assert answer.json["request_id"] == "mine-2"


async def test_a_silent_application_is_answered_for(
    live_server: RunningServer,
) -> None:
    (answer,) = await live_server.ask(GET.replace(b"plain", b"silent"))
    assert_refused(answer, 500, "GENERATION_ERROR")


async def test_an_application_that_leaves_half_an_answer_ends_the_connection(
    live_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        protocol, "LINGER_SECONDS", 60
    )  # the client's end must be noticed, not awaited
    async with live_server.client() as client:
        await client.send(GET.replace(b"plain", b"half") + GET)
        read = await client.read_all()
    assert read.startswith(b"HTTP/1.1 200 ")
    assert read.count(b"HTTP/1.1") == 1
    assert b"0\r\n\r\n" not in read
    assert live_server.app.seen == []


async def test_a_page_can_read_a_refusal_that_no_application_made() -> None:
    origins = ("https://app.example.org",)
    bounds = ApiSettings(header_seconds=0.1, connections_max=2, cors_origins=origins)
    origin = b"Origin: https://app.example.org\r\n"
    async with running(bounds) as live_server:
        async with live_server.client() as one, live_server.client() as two:
            await one.send(GATED)
            await two.send(GATED)
            await waiting.until(lambda: len(live_server.app.seen) == 2)
            found = await live_server.ask(LAST[:-2] + origin + b"\r\n")
            live_server.app.gate.set()
            assert [(await busy.answer()).status for busy in (one, two)] == [200, 200]
        await live_server.is_empty()
        for raw in (
            GET[:-2] + origin + b"X: y\r\n",
            GET[:-2] + origin + b"X: y\r\nX : y\r\n\r\n",
            GET[:-2] + origin + b"X: %b\r\n\r\n" % (b"y" * 20_000),
            b"hello\r\n\r\n",
        ):
            found += await live_server.ask(raw)
            await live_server.is_empty()
    assert [answer.status for answer in found] == [503, 408, 400, 431, 400]
    for answer in found:
        assert answer.fields["vary"] == "Origin"
        assert answer.fields["cache-control"] == "no-store"
        assert answer.fields["date"]
    payload = [answer.fields.get("access-control-allow-origin") for answer in found]
    assert payload == [*origins * 4, None]


async def test_a_server_that_shuts_down_answers_in_json(errors_logged: list[str]) -> None:
    errors_logged.append("Cancel 1 running task(s), timeout graceful shutdown exceeded")
    async with running(grace_seconds=0) as live_server, live_server.client() as client:
        await client.send(GATED)
        await waiting.until(lambda: live_server.app.seen)
        live_server.server.should_exit = True
        (answer,) = await client.answers()
    assert_refused(answer, 503, "UNAVAILABLE")


async def test_shutdown_ends_idle_and_busy_connections() -> None:
    async with (
        running() as live_server,
        live_server.client() as idle,
        live_server.client() as busy,
    ):
        await idle.send(GET)
        assert (await idle.answer()).status == 200
        await busy.send(GATED)
        await waiting.until(lambda: len(live_server.app.seen) == 2)
        live_server.server.should_exit = True
        assert await idle.read_all() == b""
        assert len(live_server.server.server_state.connections) == 1
        live_server.app.gate.set()
        (answer,) = await busy.answers()
        assert answer.fields["connection"] == "close"


def test_the_configuration_can_be_sent_to_worker_processes() -> None:
    bounds = ApiSettings(header_bytes_max=4_096)
    config = uvicorn.Config("api.app:create", http=protocol.protocol(bounds), workers=2)
    sent = pickle.loads(pickle.dumps(config))  # noqa: S301 - our own bytes
    assert sent.http.func is protocol.BoundedHttpProtocol
    assert sent.http.args[0] == bounds


async def test_an_ended_connection_leaves_nothing_to_collect(live_server: RunningServer) -> None:
    gc.collect()
    gc.disable()
    try:
        drip = GET.replace(b"plain", b"drip")
        for raw in (GET, GET * 3, drip + GET, INVALID["words"], INVALID["chunk-size"], b"GET"):
            async with live_server.client() as client:
                await client.send(raw)
                if raw != b"GET":
                    assert await client.read()
            await live_server.is_empty()
        left = [one for one in gc.get_objects() if isinstance(one, protocol.BoundedHttpProtocol)]
    finally:
        gc.enable()
    assert left == []
