"""A scripted API on a real socket: event streams that are told, held back and cut as a test says.

Owns the bytes of the lines and what was asked. Refuses to be a Pollux: it accepts anything.
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


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ScriptedReply(NamedTuple):
    """How one request is answered: piece by piece; a gate among them is waited for.

    A line that is cut ends without the end of its body.
    """

    pieces: tuple[bytes | asyncio.Event, ...] = ()
    status: int = 200
    headers: tuple[str, ...] = ()
    kind: str = _STREAM
    is_cut: bool = False


_DONE: Final = ScriptedReply((b"{}",), kind="application/json")


class ScriptedApi:
    """The API. An asynchronous context manager: entering opens the port, leaving closes it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.lines: deque[ScriptedReply] = deque()
        # What a look at the status is answered; every look gets the same.
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
        """How often it was told to cancel."""
        return sum(asked.path == _CANCEL for asked in self.asked)

    def _on_connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A caller may leave at any moment.
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                asked = await _read(reader)
                self.asked.append(asked)
                await _write_line(writer, self._reply(asked.path))
            finally:
                writer.close()
                await writer.wait_closed()

    def _reply(self, path: str) -> ScriptedReply:
        if path == _CANCEL:
            return _DONE
        return self.status if path == _STATUS else self._next()

    def _next(self) -> ScriptedReply:
        return self.lines.popleft() if self.lines else ScriptedReply(status=500, kind="text/plain")


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(body) if body else None)


async def _write_line(writer: asyncio.StreamWriter, line: ScriptedReply) -> None:
    head = (
        f"HTTP/1.1 {line.status} Scripted",
        f"content-type: {line.kind}",
        *("transfer-encoding: chunked", "connection: close"),
        *line.headers,
    )
    writer.write("\r\n".join((*head, "", "")).encode())
    for piece in line.pieces:
        if isinstance(piece, asyncio.Event):
            await piece.wait()
        else:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
    if not line.is_cut:
        writer.write(b"0\r\n\r\n")
    await writer.drain()


def event(at: str, name: str, **fields: object) -> bytes:
    """Return an event as the API sends it."""
    content = json.dumps({"type": name, **fields}, ensure_ascii=False)
    return f"id: {at}\nevent: {name}\ndata: {content}\n\n".encode()


def accepted() -> bytes:
    """Return a stream's first event."""
    return event("0-1", "accepted", id=ID, session_id="the-session", poll_url=_STATUS)


def routed() -> bytes:
    """Return which model answers."""
    routing = {"policy": "requested", "chosen": "alpha", "reason": "alpha was requested."}
    return event("1-1", "routed", routing=routing)


def completed(at: str, content: str) -> bytes:
    """Return the end, with an answer."""
    return event(at, "completed", message={"id": ID, "content": content}, usage={}, routing=None)


def failed(at: str, message: str) -> bytes:
    """Return the end, without one."""
    return event(at, "failed", failure={"message": message, "category": "provider_error"})


def refusal(status: int, sentence: str, *headers: str) -> ScriptedReply:
    """Return a refusal in this dialect's form."""
    body = {"status": "error", "code": "X", "message": sentence, "error": {"message": sentence}}
    return ScriptedReply((json.dumps(body).encode(),), status, headers, "application/json")


def later() -> ScriptedReply:
    """Return what is said of a message that is in, when its events cannot be followed now."""
    body = {"id": ID, "session_id": "the-session", "state": "processing", "poll_interval_hint": 1}
    return ScriptedReply((json.dumps(body).encode(),), 202, kind="application/json")
