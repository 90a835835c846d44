"""Upstreams that are away, silent, cut off, wrong or hostile, as an adapter reports them.

Every one of them ends in the right error, within a bound of time and of bytes.
"""

import asyncio
import socket
import tracemalloc
import zlib

import pytest

from shared.errors import ConfigurationError
from tests.support.waiting import until
from tests.worker.providers.calls import (
    FIRST_SECONDS,
    IDLE_SECONDS,
    PATIENT_SECONDS,
    REQUEST,
    Call,
    Received,
    connect,
    listen,
)
from tests.worker.providers.dialect_row import MODEL, Dialect
from tests.worker.providers.upstream import Line, Script, chunked, endless, held, whole
from worker.providers.contract import KeepAlive, Text
from worker.providers.sse import BODY_BYTES_MAX, EVENT_BYTES_MAX

_SILENT = ("timeout", "PROVIDER_SILENT", "backoff")
_CUT = ("provider_error", "STREAM_CUT", "backoff")
_MALFORMED = ("provider_error", "MALFORMED_STREAM", "backoff")
_TOO_LARGE = ("provider_error", "RESPONSE_TOO_LARGE", "never")
# An adapter is silent for at most this long, whatever the upstream does; and some for a slow box.
_PATIENCE_SECONDS = max(IDLE_SECONDS, FIRST_SECONDS) + 5.0


async def _listen_at(dialect: Dialect, port: int) -> Received:
    provider = connect(dialect, f"http://127.0.0.1:{port}/v1", IDLE_SECONDS)
    received = await listen(provider)
    await provider.close()
    return received


# Nobody there


async def test_refused_connection(dialect: Dialect) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        received = await _listen_at(dialect, closed.getsockname()[1])
    assert received.fault == ("overloaded", "CONNECT_FAILED", "backoff")


async def test_connection_that_is_never_accepted(dialect: Dialect) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        sockets = [socket.socket() for _ in range(4)]
        for member in sockets:
            member.setblocking(False)
            member.connect_ex(full.getsockname())
        received = await _listen_at(dialect, full.getsockname()[1])
        for member in sockets:
            member.close()
    assert received.fault == ("timeout", "CONNECT_TIMEOUT", "backoff")
    assert received.seconds < _PATIENCE_SECONDS


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70, "0.0.0.0.0", "a..b"])
async def test_host_that_cannot_be_found(dialect: Dialect, host: str) -> None:
    provider = connect(dialect, f"http://{host}:9/v1")
    received = await listen(provider)
    await provider.close()
    assert received.fault == ("overloaded", "CONNECT_FAILED", "backoff")


@pytest.mark.parametrize("host", ["[::1", "ü" * 80, "xn--a", ""])
def test_address_that_is_none_is_refused_at_the_start(dialect: Dialect, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"providers\.up\.base_url: "):
        connect(dialect, f"http://{host}:9/v1")


async def test_upstream_that_speaks_no_http(call: Call) -> None:
    async def script(line: Line) -> None:
        await line.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    assert (await call(script)).fault == _CUT


async def test_head_without_end(call: Call) -> None:
    async def script(line: Line) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await line.send(b"x-more: " + b"y" * 1000 + b"\r\n")

    received = await call(script)
    assert received.fault == _CUT
    assert call.upstream.line.sent_bytes < 20_000_000


# Silence


async def test_silence_before_the_head(brief: Call) -> None:
    async def script(line: Line) -> None:
        await line.gone.wait()

    received = await brief(script)
    assert received.fault == _SILENT
    assert received.seconds < _PATIENCE_SECONDS


async def test_silence_after_the_head(brief: Call) -> None:
    received = await brief(held())
    assert received.fault == _SILENT
    assert received.seconds < _PATIENCE_SECONDS


async def test_silence_in_the_middle(brief: Call) -> None:
    received = await brief(held(brief.dialect.text("Two ")))
    assert (received.text, received.fault) == ("Two ", _SILENT)
    assert received.seconds < _PATIENCE_SECONDS
    await asyncio.wait_for(brief.upstream.line.gone.wait(), 1)


async def test_model_may_think_as_long_as_it_is_allowed_before_it_says_anything(
    brief: Call,
) -> None:
    assert MODEL.first_token_seconds > FIRST_SECONDS
    thought = asyncio.Event()

    async def script(line: Line) -> None:
        asyncio.get_running_loop().call_later(IDLE_SECONDS + 0.2, thought.set)
        await thought.wait()
        await line.head()
        await line.send(brief.dialect.answer("Two"))

    received = await brief(script, REQUEST)
    assert (received.text, received.error) == ("Two", None)


# Cuts


async def test_connection_cut_before_the_head(call: Call) -> None:
    async def script(_: Line) -> None:
        pass

    assert (await call(script)).fault == _CUT


@pytest.mark.parametrize("said", [[], ["Two "], ["Two ", "bears"]])
async def test_answer_cut_in_the_middle(call: Call, said: list[str]) -> None:
    texts = [call.dialect.text(text) for text in said]
    for script in (whole(*texts), chunked(*texts, is_ended=False), chunked(*texts)):
        received = await call(script)
        assert (received.text, received.fault) == ("".join(said), _CUT)


async def test_answer_cut_by_a_reset(call: Call) -> None:
    async def script(line: Line) -> None:
        await line.head(transfer_encoding="chunked")
        await line.send(b"5\r\ndata:")
        line.reset()

    assert (await call(script)).fault == _CUT


async def test_last_event_alone_is_no_end(call: Call) -> None:
    received = await call(whole(call.dialect.text("Two "), call.dialect.done))
    assert (received.text, received.fault) == ("Two ", _CUT)


async def test_answer_cut_at_every_byte_is_never_taken_for_whole(call: Call) -> None:
    data = call.dialect.text("Two") + call.dialect.ended("stop")
    # Without the blank line, and even without the line's end, the last event is whole.
    for at in range(len(data.rstrip(b"\n"))):
        received = await call(whole(data[:at]))
        assert received.error is not None, data[:at]
        assert received.reasons == []


# Wrong words


@pytest.mark.parametrize(
    "data",
    [
        b"data: {not json\n\n",
        b"data: \n\ndata: {\n\n",
        b"data: 5\n\n",
        b'data: "text"\n\n',
        b"data: []\n\n",
        b"data: null\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: " + b"\xff\xfe\x00" * 100 + b"\n\n",
        b"data: NaN\n\n",
        b"data: ping\n\n",
    ],
    ids=lambda data: data[:20].decode("latin-1"),
)
async def test_events_that_say_nothing_take_nothing_from_the_answer(
    call: Call, data: bytes
) -> None:
    received = await call(whole(call.dialect.text("Two "), data, call.dialect.answer("bears")))
    assert (received.text, received.error) == ("Two bears", None)


@pytest.mark.parametrize("name", ["content", "text", "delta", "parts"])
async def test_piece_of_the_answer_that_cannot_be_read_is_missed(call: Call, name: str) -> None:
    broken = b'data: {"a":[{"%b": "be\n\n' % name.encode()
    received = await call(whole(call.dialect.text("Two "), broken, call.dialect.answer("bears")))
    assert (received.text, received.fault) == ("Two ", _MALFORMED)
    received = await call(whole(call.dialect.text("Two"), call.dialect.ended("stop"), broken))
    assert (received.text, received.reasons, received.error) == ("Two", ["stop"], None)


async def test_error_that_cannot_be_read_is_an_error(call: Call) -> None:
    broken = b'data: {"error":' + b'{"a":' * 100_000 + b"\n\n"
    received = await call(whole(call.dialect.text("Two "), broken, call.dialect.answer("bears")))
    assert received.fault == ("provider_error", "PROVIDER_FAILED", "backoff")


async def test_bytes_that_are_no_events_are_no_answer(call: Call) -> None:
    noise = bytes(range(256)) * 200
    assert (await call(whole(noise))).fault == _CUT


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/html", "", "text/plain", "application/x-ndjson"]
)
async def test_stream_of_another_type_is_read(call: Call, content_type: str) -> None:
    received = await call(whole(call.dialect.answer("Two"), content_type=content_type))
    assert (received.text, received.error) == ("Two", None)


@pytest.mark.parametrize("page", [b"<!doctype html><p>Sign in", b"\n <html>", b"<?xml ?>"])
async def test_page_is_no_answer_and_not_asked_for_again(call: Call, page: bytes) -> None:
    received = await call(whole(page, content_type="text/event-stream"))
    assert received.fault == ("provider_error", "NOT_AN_ANSWER", "never")


# Too much


@pytest.mark.parametrize(
    "piece",
    [
        b"x" * 65_536,
        b"data: " + b"x" * 65_530,
        b"data: x\n" * 8192,
        b": comment\n" * 8192,
        b"data:\r" * 8192,
        b"event: x\nid: y\n" * 4096,
    ],
    ids=lambda piece: piece[:12].decode(),
)
async def test_event_without_end(call: Call, piece: bytes) -> None:
    received = await call(_then_endless(call.dialect.text("Two "), piece))
    assert (received.text, received.fault) == ("Two ", _TOO_LARGE)
    # What was sent is what was read and what the sockets hold.
    assert call.upstream.line.sent_bytes < EVENT_BYTES_MAX + 16_000_000


async def test_event_without_end_takes_little_memory(call: Call) -> None:
    tracemalloc.start()
    received = await call(_then_endless(call.dialect.text("Two "), b"data: x\n" * 8192))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert received.fault == _TOO_LARGE
    assert peak_bytes < 32 * EVENT_BYTES_MAX


def _then_endless(first: bytes, piece: bytes) -> Script:
    async def script(line: Line) -> None:
        await line.head()
        await line.send(first)
        while True:
            await line.send(piece)

    return script


async def test_answer_without_end(call: Call) -> None:
    piece = call.dialect.text("x" * 60_000)
    received = await call(endless(piece))
    assert received.fault == _TOO_LARGE
    assert len(received.text) <= BODY_BYTES_MAX


async def test_event_of_almost_a_mebibyte_is_received(call: Call) -> None:
    text = "x" * (EVENT_BYTES_MAX - 1000)
    received = await call(whole(call.dialect.text(text), call.dialect.answer()))
    assert (len(received.text), received.error) == (len(text), None)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_compressed_answer_is_refused_unread(call: Call, encoding: str) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = bomb.compress(b"\0" * 50_000_000) + bomb.flush()
    received = await call(whole(packed, content_encoding=encoding))
    assert received.fault == ("provider_error", "COMPRESSED_RESPONSE", "never")


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
async def test_answer_that_says_it_is_not_compressed_is_received(call: Call, encoding: str) -> None:
    received = await call(whole(call.dialect.answer("Two"), content_encoding=encoding))
    assert (received.text, received.error) == ("Two", None)


async def test_nothing_an_upstream_sets_comes_back_to_it(call: Call) -> None:
    for turn in range(3):
        received = await call(
            whole(call.dialect.answer("Two"), set_cookie=f"track{turn}=1; Path=/")
        )
        assert received.error is None
    assert all(b"cookie" not in line.request.lower() for line in call.upstream.lines)


# Stopping


async def test_upstream_is_left_at_once_when_the_reader_stops(call: Call) -> None:
    call.upstream.script = held(call.dialect.text("Two "))
    parts = call.provider.stream(REQUEST)
    assert [await anext(parts), await anext(parts)] == [KeepAlive(), Text("Two ")]
    await parts.aclose()
    await asyncio.wait_for(call.upstream.line.gone.wait(), PATIENT_SECONDS / 2)


@pytest.mark.parametrize("is_head_sent", [True, False])
async def test_upstream_is_left_at_once_when_the_reader_is_cancelled(
    call: Call, *, is_head_sent: bool
) -> None:
    async def script(line: Line) -> None:
        if is_head_sent:
            await line.head()
        await line.gone.wait()

    call.upstream.script = script
    hearing = asyncio.create_task(listen(call.provider))
    await until(lambda: call.upstream.lines)
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    await asyncio.wait_for(call.upstream.line.gone.wait(), PATIENT_SECONDS / 2)


async def test_reader_that_stops_in_a_flood_stops_it(call: Call) -> None:
    call.upstream.script = endless(call.dialect.text("Two "))
    parts = call.provider.stream(REQUEST)
    for _ in range(100):
        await anext(parts)
    await parts.aclose()
    await asyncio.wait_for(call.upstream.line.gone.wait(), 1)


async def test_nothing_stays_of_calls_that_failed(brief: Call) -> None:
    tasks = len(asyncio.all_tasks())
    for script in (held(), whole(b"data: 5\n\n"), whole(status=500), chunked(is_ended=False)):
        assert (await brief(script)).error is not None
    await until(
        lambda: all(line.gone.is_set() or not line.is_kept for line in brief.upstream.lines)
    )
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
