"""A server of raw bytes on 127.0.0.1: a script decides what each connection is sent, and when.

Owns the sockets and the times at which clients disconnected. Refuses to know any dialect, and to
correct what a script sends: wrong bytes are its purpose.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Self

_READ_BYTES: Final = 65_536


class Line:
    """One request and its connection; `gone` is set when its client has disconnected.

    A script sets `is_kept` if the same connection may bring another request.
    """

    def __init__(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.sent_bytes = 0
        self.is_kept = False
        self.gone = asyncio.Event()
        self._writer = writer

    async def send(self, *data: bytes) -> None:
        """Send, as slowly as the client reads. Raises ConnectionError if it has disconnected."""
        for piece in data:
            self._writer.write(piece)
            await self._writer.drain()
            await asyncio.sleep(0)  # noqa: TID251  a turn of the loop, no time
            self.sent_bytes += len(piece)

    async def head(self, *, status: int = 200, **headers: str) -> None:
        """Send the head of a response that ends with its connection."""
        fields = {"content_type": "text/event-stream", "connection": "close"} | headers
        named = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        await self.send("\r\n".join([f"HTTP/1.1 {status} Scripted", *named, "", ""]).encode())

    def reset(self) -> None:
        """Reset the connection, so that the client sees no regular end."""
        plug: socket.socket = self._writer.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._writer.transport.abort()

    def left(self) -> None:
        """Note that the client has disconnected."""
        self.gone.set()


Script = Callable[[Line], Awaitable[None]]


def whole(*data: bytes, status: int = 200, **headers: str) -> Script:
    """Return a script that sends a head and these bytes, and closes the connection."""

    async def script(line: Line) -> None:
        await line.head(status=status, **headers)
        await line.send(*data)

    return script


def chunked(*data: bytes, is_ended: bool = True) -> Script:
    """Return a script that sends these bytes as chunks; without the last the answer is cut."""

    async def script(line: Line) -> None:
        await line.head(transfer_encoding="chunked", connection="keep-alive")
        await line.send(*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in data))
        if is_ended:
            await line.send(b"0\r\n\r\n")
            line.is_kept = True

    return script


def held(*data: bytes) -> Script:
    """Return a script that sends a head and these bytes and then stays silent."""

    async def script(line: Line) -> None:
        await line.head()
        await line.send(*data)
        await line.gone.wait()

    return script


def endless(piece: bytes, status: int = 200) -> Script:
    """Return a script that sends a head and then the same bytes for ever."""

    async def script(line: Line) -> None:
        await line.head(status=status)
        while True:
            await line.send(piece)

    return script


class Upstream:
    """The server. An asynchronous context manager; leaving it closes every connection."""

    def __init__(self) -> None:
        self.script: Script = whole()
        self.lines: list[Line] = []
        self.connections = 0
        self.closed = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL as a catalogue would give it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def line(self) -> Line:
        """The only connection so far."""
        (line,) = self.lines
        return line

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while (request := await _request(reader)) is not None:
                line = Line(request, writer)
                self.lines.append(line)
                if not await self._answer(line, reader):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            with suppress(ConnectionError):
                writer.close()
                await writer.wait_closed()
            self.closed += 1

    async def _answer(self, line: Line, reader: asyncio.StreamReader) -> bool:
        """Run the script while watching the client; return whether another request may come."""
        script = asyncio.ensure_future(self.script(line))
        watch = asyncio.create_task(_watch(reader))
        try:
            await asyncio.wait((script, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if watch.done():
                line.left()
            if not script.done():
                script.cancel()
            watch.cancel()
            fault, _ = await asyncio.gather(script, watch, return_exceptions=True)
        if isinstance(fault, ConnectionError):
            line.left()
        assert fault is None or isinstance(fault, ConnectionError | asyncio.CancelledError), fault
        return fault is None and line.is_kept and not line.gone.is_set()


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    lengths = [
        int(field.partition(b":")[2])
        for field in head.split(b"\r\n")
        if field.lower().startswith(b"content-length:")
    ]
    return head + await reader.readexactly(lengths[0] if lengths else 0)


async def _watch(reader: asyncio.StreamReader) -> None:
    """Return when the client has disconnected; one that waits for its answer sends nothing."""
    while await reader.read(_READ_BYTES):
        pass
