"""What goes back over HTTP and how it is sent: JSON, server-sent events, JSON in chunks, a file.

Owns the headers that every response has. A handler returns one of the four types; `send_response`
sends it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO, Final, NamedTuple

import msgspec
from starlette.types import Scope, Send

from shared.errors import Code, PolluxError, RequestError, UnavailableError
from shared.telemetry import logs

encode = msgspec.json.Encoder().encode

JSON: Final = "application/json"
_JSON: Final = (b"content-type", JSON.encode())
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
# A response belongs to its account: a cache might serve it to another.
_PRIVATE: Final = ((b"cache-control", b"no-store"), _NO_SNIFFING)
# Proxies that buffer or compress would delay events.
_EVENTS: Final = (
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    _NO_SNIFFING,
)
_PART_BYTES: Final = 65_536
_FILE_PIECE_BYTES: Final = 262_144
_WITHOUT_CONTENT: Final = frozenset({204, 304})


class Response(NamedTuple):
    """A value to encode as JSON, or None for an empty body."""

    value: object
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012  never changed, only read


class EventStream(NamedTuple):
    """Events, sent as they come until the generator ends.

    The generator has started; closing it frees what it holds. `first` may be empty.
    """

    first: bytes
    events: AsyncGenerator[bytes, None]
    headers: dict[str, str] = {}  # noqa: RUF012  never changed, only read
    content_type: str = "text/event-stream; charset=utf-8"

    @classmethod
    async def begin(cls, events: AsyncGenerator[bytes, None]) -> "EventStream":
        """Take a generator's first piece; until then it may still raise a refusal."""
        return cls(await anext(events), events)


class ChunkedResponse(NamedTuple):
    """A body in pieces, because the whole may be large.

    The generator has started, as in `EventStream`. If it raises, the body is left incomplete.
    """

    first: bytes
    rest: AsyncGenerator[bytes, None]
    headers: dict[str, str] = {}  # noqa: RUF012  never changed, only read
    content_type: str = JSON

    @classmethod
    async def begin(cls, pieces: AsyncGenerator[bytes, None]) -> "ChunkedResponse":
        """Take a generator's first piece; until then it may still raise a refusal."""
        return cls(await anext(pieces), pieces)


class FileResponse(NamedTuple):
    """An open file, closed after sending; `headers` lack only its length and the request id."""

    file: BinaryIO
    length: int
    headers: dict[str, str]


AnyResponse = Response | EventStream | ChunkedResponse | FileResponse


async def send_response(scope: Scope, send: Send, response: AnyResponse) -> None:
    """Send what a handler returned."""
    if isinstance(response, EventStream):
        await _send_events(scope, send, response)
        return
    if isinstance(response, ChunkedResponse):
        await _send_chunks(scope, send, response)
        return
    if isinstance(response, FileResponse):
        await _send_file(scope, send, response)
        return
    content = b"" if response.value is None else encode(response.value)
    await reply(scope, send, response.status, content, response.headers)


async def reply_allowed_methods(scope: Scope, send: Send, allow: str) -> None:
    """Answer OPTIONS with the methods of a path; refuse any other method.

    Raises:
        RequestError: METHOD_NOT_ALLOWED.

    """
    if scope["method"] != "OPTIONS":
        scope["allow"] = allow
        raise RequestError(
            f"{scope['method']} is not allowed here; allowed: {allow}.", Code.METHOD_NOT_ALLOWED
        )
    await reply(scope, send, 204, b"", {"allow": allow})


async def reply(
    scope: Scope,
    send: Send,
    status: int,
    content: bytes,
    headers: dict[str, str],
    *,
    content_type: str = JSON,
) -> None:
    """Send one response, with the request's id."""
    raw = [(b"x-request-id", scope["request_id"].encode()), *_PRIVATE]
    raw += [(name.encode(), value.encode()) for name, value in headers.items()]
    if status not in _WITHOUT_CONTENT:
        kind = _JSON if content_type is JSON else (b"content-type", content_type.encode())
        raw += [kind, (b"content-length", b"%d" % len(content))]
    # From here on no other response is possible, whatever fails.
    scope["is_answered"] = True
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def _send_events(scope: Scope, send: Send, stream: EventStream) -> None:
    """Send events as they come; for HEAD, the headers only.

    Pieces are whole events. So when Redis fails, the stream ends as if complete: the client
    reconnects with the id of the last event.
    """
    raw = [(b"x-request-id", scope["request_id"].encode()), *_EVENTS]
    raw.append((b"content-type", stream.content_type.encode()))
    raw += [(name.encode(), value.encode()) for name, value in stream.headers.items()]
    async with aclosing(stream.events) as pieces:
        scope["is_answered"] = True
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] != "HEAD":
            await send({"type": "http.response.body", "body": stream.first, "more_body": True})
            try:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except UnavailableError as error:
                logs.logger().warning("unavailable", reason=error.message, path=scope["path"])
        await send({"type": "http.response.body", "body": b""})


async def _send_chunks(scope: Scope, send: Send, response: ChunkedResponse) -> None:
    """Send a body of unknown length; for HEAD, the headers only.

    When a piece fails, the body is left without its last chunk and the connection is closed, so
    that no client takes a part for the whole.
    """
    raw = [(b"x-request-id", scope["request_id"].encode()), *_PRIVATE]
    raw.append((b"content-type", response.content_type.encode()))
    raw += [(name.encode(), value.encode()) for name, value in response.headers.items()]
    async with aclosing(response.rest) as rest:
        scope["is_answered"] = True
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] != "HEAD":
            await _send_chunk(send, response.first)
            try:
                async for piece in rest:
                    await _send_chunk(send, piece)
            except PolluxError as error:
                logs.logger().warning("answer cut off", reason=error.message, path=scope["path"])
                return
        await send({"type": "http.response.body", "body": b""})


async def _send_file(scope: Scope, send: Send, response: FileResponse) -> None:
    """Send a file piece by piece; for HEAD, the headers only."""
    raw = [(b"x-request-id", scope["request_id"].encode())]
    raw += [(name.encode(), value.encode()) for name, value in response.headers.items()]
    raw.append((b"content-length", b"%d" % response.length))
    with response.file as file:
        scope["is_answered"] = True
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] != "HEAD":
            file.seek(0)
            while piece := await asyncio.to_thread(file.read, _FILE_PIECE_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _send_chunk(send: Send, piece: bytes) -> None:
    """Send a piece in parts, so that for a slow client the transport buffers little of it."""
    for at in range(0, len(piece), _PART_BYTES):
        part = piece[at : at + _PART_BYTES]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        # Between two parts other requests get their turn, even if this client reads fast.
        await asyncio.sleep(0)  # noqa: TID251  a turn of the loop
