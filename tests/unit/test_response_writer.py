"""How a response is written: its bytes, and what is refused."""

import asyncio
import logging
from typing import Any, cast

import pytest
from starlette.types import Message
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl

from api.server.response_writer import ResponseWriter

DATE = (b"date", b"Mon, 30 Nov 2026 12:00:00 GMT")


class Wire:
    """A transport that records each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True


class Answering:
    """A response over such a transport, and how often its end was signalled."""

    def __init__(
        self, *, method: str = "GET", version: str = "1.1", keep_alive: bool = True
    ) -> None:
        self.wire, self.ends = Wire(), 0
        scope = {"method": method, "http_version": version}
        wire = cast("asyncio.Transport", self.wire)
        log = logging.getLogger("uvicorn.error")
        self.cycle = ResponseWriter(
            scope=cast("HTTPScope", scope),
            transport=wire,
            flow=FlowControl(wire),
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=[DATE],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self._end,
        )

    def _end(self) -> None:
        self.ends += 1

    async def start(self, *fields: tuple[bytes, bytes], status: int = 200) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": fields})

    async def body(self, piece: bytes, *, is_last: bool = True) -> None:
        message = {"type": "http.response.body", "body": piece, "more_body": not is_last}
        await self._send(message)

    async def _send(self, message: Message) -> None:
        await self.cycle.send(cast("Any", message))


def length(count: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % count)


async def test_head_and_body_leave_in_one_write() -> None:
    answering = Answering()
    await answering.start((b"etag", b"\ta"), length(2))
    assert answering.wire.writes == []
    await answering.body(b"{}")
    lines = (b"HTTP/1.1 200 OK", b"date: " + DATE[1], b"etag: \ta", b"content-length: 2")
    assert answering.wire.writes == [b"\r\n".join(lines) + b"\r\n\r\n{}"]
    assert (answering.ends, answering.wire.is_closed) == (1, False)


async def test_head_of_unknown_length_waits_for_nothing() -> None:
    answering = Answering()
    await answering.start()
    assert answering.wire.writes[0].endswith(b"\r\ntransfer-encoding: chunked\r\n\r\n")
    await answering.body(b"", is_last=False)
    await answering.body(b"abc", is_last=False)
    await answering.body(b"")
    assert answering.wire.writes[1:] == [b"3\r\nabc\r\n", b"0\r\n\r\n"]
    assert answering.ends == 1


async def test_caller_of_http_1_0_gets_the_pieces_as_they_are() -> None:
    answering = Answering(version="1.0", keep_alive=False)
    await answering.start()
    assert answering.wire.writes[0].endswith(b"\r\nconnection: close\r\n\r\n")
    await answering.body(b"abc", is_last=False)
    await answering.body(b"")
    assert answering.wire.writes[1:] == [b"abc"]
    assert answering.wire.is_closed


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("DELETE", 204)])
async def test_answer_without_content_has_no_frame(method: str, status: int) -> None:
    answering = Answering(method=method)
    await answering.start(status=status)
    await answering.body(b"")
    (written,) = answering.wire.writes
    assert written.endswith(DATE[1] + b"\r\n\r\n")


async def test_head_gets_the_length_and_no_body() -> None:
    answering = Answering(method="HEAD")
    await answering.start(length(5))
    await answering.body(b"abcde")
    (written,) = answering.wire.writes
    assert written.endswith(b"content-length: 5\r\n\r\n")


@pytest.mark.parametrize("close", [b"close", b"Close"])
async def test_answer_that_closes_says_so_once(close: bytes) -> None:
    answering = Answering()
    await answering.start((b"connection", close), length(0))
    await answering.body(b"")
    assert answering.wire.writes[0].lower().count(b"connection: close") == 1
    assert answering.wire.is_closed


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"\0", b"a\x7f"])
async def test_value_that_would_break_the_head_is_refused(value: bytes) -> None:
    answering = Answering()
    with pytest.raises(RuntimeError, match="character"):
        await answering.start((b"location", value), length(0))
    assert answering.wire.writes == []


@pytest.mark.parametrize(("pieces", "last"), [([], b"abcd"), ([], b"ab"), ([b"ab"], b"cd")])
async def test_a_body_of_another_length_than_declared_is_refused(
    pieces: list[bytes], last: bytes
) -> None:
    answering = Answering()
    await answering.start(length(3))
    for piece in pieces:
        await answering.body(piece, is_last=False)
    with pytest.raises(RuntimeError, match="length"):
        await answering.body(last)
    assert answering.ends == 0


async def test_part_out_of_its_place_is_refused() -> None:
    answering = Answering()
    await answering.start(length(0))
    with pytest.raises(RuntimeError, match="out of order"):
        await answering.start(length(0))
    await answering.body(b"")
    with pytest.raises(RuntimeError, match="out of order"):
        await answering.body(b"")


async def test_nothing_is_written_after_a_disconnect() -> None:
    answering = Answering()
    answering.cycle.disconnected = True
    await answering.start(length(0))
    await answering.body(b"")
    assert answering.wire.writes == []
