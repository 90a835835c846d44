"""What the tests of the edge share: a small application, a server around it, and clients on bare sockets.

Owns no expectations of its own but one: what a client reads must be well-formed HTTP/1.1 answers.
"""

import asyncio
import gc
import json
import pickle
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from api import edge
from shared.settings import ApiSettings

BOUNDS: Final = ApiSettings(header_seconds=0.3, stuck_reader_seconds=0.4)
PATIENCE_SECONDS: Final = 10.0
PIECE: Final = b"x" * 65_536


@dataclass(frozen=True)
class Answer:
    """One answer as a client read it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)


@dataclass
class App:
    """Echoes requests, by path in ways that try the edge; `seen` holds (path, fields, body)."""

    seen: list[tuple[str, list[tuple[bytes, bytes]], bytes]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path == "/broken":
            raise ZeroDivisionError
        if path == "/early":
            await _answer(send, b"early", close="close" in scope["query_string"].decode())
            return
        body = await self._body(path, receive)
        if path == "/gated":
            await self.gate.wait()
        if path in {"/large", "/drip"}:
            await self._stream(path, receive, send)
        elif body is not None:
            self.seen.append((path, list(scope["headers"]), body))
            text = {"method": scope["method"], "path": path, "body": body.decode("latin-1")}
            await _answer(send, json.dumps(text).encode())

    async def _body(self, path: str, receive: ASGIReceiveCallable) -> bytes | None:
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                self.gone.append(path)
                return None
            body += message["body"]
            if not message["more_body"]:
                return body

    async def _stream(
        self, path: str, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Send until the client is gone: large pieces at once, or a small one each turn of the loop."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watch = asyncio.ensure_future(receive())
        while not watch.done():
            piece = PIECE if path == "/large" else b"drop"
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # noqa: TID251 - one turn of the loop, so that others run too
        self.gone.append(path)


async def _answer(send: ASGISendCallable, body: bytes, *, close: bool = False) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Site:
    """A running server and the ways to talk to it."""

    def __init__(self, server: uvicorn.Server, app: App, port: int) -> None:
        self.server = server
        self.app = app
        self.port = port

    @property
    def connections(self) -> int:
        """Return how many connections the server holds."""
        return len(self.server.server_state.connections)

    async def talk(self, *pieces: bytes) -> list[Answer]:
        """Send the pieces, each by itself, and return all answers until the server closes."""
        return answers(await self.raw(*pieces))

    async def raw(self, *pieces: bytes) -> bytes:
        """Send the pieces, each by itself, and return every byte until the server closes."""
        async with self.client() as client:
            for piece in pieces:
                client.send(piece)
                await asyncio.sleep(0.005 if len(pieces) > 1 else 0)  # noqa: TID251 - apart on the wire
            return await client.rest()

    @asynccontextmanager
    async def client(self, *, receive_bytes: int | None = None) -> AsyncIterator["Client"]:
        """Connect; with `receive_bytes` the kernel takes no more than about that for us."""
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", self.port))
        client = Client(sock)
        try:
            yield client
        finally:
            await client.close()


class Client:
    """A bare socket. What it does not ask for, it does not read."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._writes: list[asyncio.Task[None]] = []

    def send(self, data: bytes) -> None:
        """Send in the background, behind what was sent before; a server that has gone is no error."""
        self._writes.append(asyncio.create_task(self._send(data, list(self._writes))))

    async def _send(self, data: bytes, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except OSError:
            return

    async def sent(self) -> None:
        """Return when all was handed to the kernel."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait(self._writes)

    async def read(self, count: int = 65_536) -> bytes:
        """Return what comes next, nothing at the end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await asyncio.get_running_loop().sock_recv(self.sock, count)
            except ConnectionError:
                return b""

    async def rest(self) -> bytes:
        """Return all until the end."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def close(self) -> None:
        """Hang up."""
        for write in self._writes:
            write.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)
        self.sock.close()


@asynccontextmanager
async def site(
    bounds: ApiSettings = BOUNDS, *, send_bytes: int | None = None, **options: Any
) -> AsyncIterator[Site]:
    """Run the application behind the edge; `send_bytes` bounds what the kernel holds for a client."""
    app = App()
    with socket.socket() as listener:
        if send_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        listener.bind(("127.0.0.1", 0))
        # Through pickle, as a configuration goes to each worker process.
        http = pickle.loads(pickle.dumps(edge.protocol(bounds)))  # noqa: S301 - our own bytes
        options = {"log_config": None, "ws": "none", "lifespan": "off"} | options
        server = uvicorn.Server(uvicorn.Config(app, http=http, **options))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop
        try:
            yield Site(server, app, listener.getsockname()[1])
        finally:
            app.gate.set()
            server.should_exit = True
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running
            gc.collect()


def answers(raw: bytes) -> list[Answer]:
    """Split what was read into answers; each must be whole."""
    found = []
    while raw:
        head, mark, raw = raw.partition(b"\r\n\r\n")
        assert mark, head
        status, *lines = head.decode("ascii").split("\r\n")
        assert status.startswith("HTTP/1.1 "), status
        fields = dict(line.split(": ", 1) for line in lines)
        size = int(fields["content-length"])
        assert len(raw) >= size
        found.append(Answer(int(status.split(" ")[1]), fields, raw[:size]))
        raw = raw[size:]
    return found
