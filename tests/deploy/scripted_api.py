"""A scripted API on a real socket: sends, delays and cuts off event streams as a test wants.

Owns the bytes of the replies, and a record of the requests. It accepts any request.
"""

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self

ID: Final = "g" * 23
_CANCEL: Final = f"/api/v1/generate/{ID}/cancel"
_STATUS: Final = f"/api/v1/generate/{ID}/status"
_STREAM: Final = "text/event-stream"


class ReceivedRequest(NamedTuple):
    """A request as it was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ScriptedReply(NamedTuple):
    """The reply to one request, in pieces; at an event among them the reply pauses until it is set.

    With `is_cut` the connection is closed before the end of the body.
    """

    pieces: tuple[bytes | asyncio.Event, ...] = ()
    status: int = 200
    headers: tuple[str, ...] = ()
    kind: str = _STREAM
    is_cut: bool = False


_CANCEL_REPLY: Final = ScriptedReply((b"{}",), kind="application/json")


class ScriptedApi:
    """The API. An asynchronous context manager: entering opens the port, leaving closes it."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.replies: deque[ScriptedReply] = deque()
        # The reply to every poll of the status.
        self.status = ScriptedReply(status=404, kind="text/plain")
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def cancels(self) -> int:
        """How many requests to cancel it has received."""
        return sum(request.path == _CANCEL for request in self.requests)

    def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client may disconnect at any moment.
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                request = await _read(reader)
                self.requests.append(request)
                await _write_reply(writer, self._reply(request.path))
            finally:
                writer.close()
                await writer.wait_closed()

    def _reply(self, path: str) -> ScriptedReply:
        if path == _CANCEL:
            return _CANCEL_REPLY
        return self.status if path == _STATUS else self._next()

    def _next(self) -> ScriptedReply:
        return (
            self.replies.popleft() if self.replies else ScriptedReply(status=500, kind="text/plain")
        )


async def _read(reader: asyncio.StreamReader) -> ReceivedRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return ReceivedRequest(method, path, headers, json.loads(body) if body else None)


async def _write_reply(writer: asyncio.StreamWriter, reply: ScriptedReply) -> None:
    head = (
        f"HTTP/1.1 {reply.status} Scripted",
        f"content-type: {reply.kind}",
        *("transfer-encoding: chunked", "connection: close"),
        *reply.headers,
    )
    writer.write("\r\n".join((*head, "", "")).encode())
    for piece in reply.pieces:
        if isinstance(piece, asyncio.Event):
            await piece.wait()
        else:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
    if not reply.is_cut:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


def event(id_: str, name: str, **fields: object) -> bytes:
    """Return an event as the API sends it."""
    content = json.dumps({"type": name, **fields}, ensure_ascii=False)
    return f"id: {id_}\nevent: {name}\ndata: {content}\n\n".encode()


def accepted() -> bytes:
    """Return a stream's first event."""
    return event("0-1", "accepted", id=ID, session_id="the-session", poll_url=_STATUS)


def routed() -> bytes:
    """Return the event that names the chosen model."""
    routing = {"policy": "requested", "chosen": "alpha", "reason": "alpha was requested."}
    return event("1-1", "routed", routing=routing)


def completed(id_: str, content: str) -> bytes:
    """Return the last event of a generation with an answer."""
    return event(id_, "completed", message={"id": ID, "content": content}, usage={}, routing=None)


def failed(id_: str, message: str) -> bytes:
    """Return the last event of a failed generation."""
    return event(id_, "failed", failure={"message": message, "category": "provider_error"})


def refusal(status: int, sentence: str, *headers: str) -> ScriptedReply:
    """Return an error response of the API."""
    body = {"status": "error", "code": "X", "message": sentence, "error": {"message": sentence}}
    return ScriptedReply((json.dumps(body).encode(),), status, headers, "application/json")


def accepted_without_stream() -> ScriptedReply:
    """Return the 202 for a message that is accepted, but whose events cannot be streamed now."""
    body = {"id": ID, "session_id": "the-session", "state": "processing", "poll_interval_hint": 1}
    return ScriptedReply((json.dumps(body).encode(),), 202, kind="application/json")
