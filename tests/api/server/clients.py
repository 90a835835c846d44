"""What these tests share: requests, an application, a server around it, clients on bare sockets.

Owns one expectation only: what a client reads must be complete HTTP/1.1 responses.
"""

import asyncio
import json
import pickle
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast

import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from api.app import DIALECTS
from api.endpoints import dialect
from api.server import protocol
from shared import ids
from shared.settings import ApiSettings
from tests.support import waiting

BOUNDS: Final = ApiSettings(header_seconds=0.3, stuck_reader_seconds=0.4)
PATIENCE_SECONDS: Final = 10.0
BODY_SECONDS: Final = 1.0
BULK_BYTES: Final = 60_000

GET: Final = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
GATED: Final = b"GET /gated HTTP/1.1\r\nHost: a\r\n\r\n"
LAST: Final = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST: Final = b"POST /plain HTTP/1.1\r\nHost: a\r\n"
LAST_POST: Final = POST + b"Connection: close\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
H2C: Final = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"

# Each is invalid in its own way.
INVALID: Final = {
    "words": b"hello there\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00",
    "http2-version": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "http09": b"GET /\r\n\r\n",
    "http12": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "connect-path": b"CONNECT /plain HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-scheme": b"GET ftp://example.org/plain HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-user": b"GET http://me@example.org/plain HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-fragment": b"GET http://example.org/plain#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-nowhere": b"GET http:///plain HTTP/1.1\r\nHost: a\r\n\r\n",
    "host-missing": b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    "host-missing-absolute": b"GET http://example.org/plain HTTP/1.1\r\n\r\n",
    "host-twice": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host-twice-1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "host-list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host-user": b"GET / HTTP/1.1\r\nHost: me@a\r\n\r\n",
    "host-path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host-port": b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
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
    "encoding-then-chunked": POST
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "encoding-unknown": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "encoding-unknown-expect": POST + b"Expect: 100-continue\r\nTransfer-Encoding: gzip\r\n\r\n",
    "field-bare-lf": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "line-bare-lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "field-bare-cr": b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    "field-nul": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "name-nul": b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: a\r\n\r\n",
    "name-empty": b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
    "name-space": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "fold": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "fold-first": b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n",
    "chunk-size": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "chunk-size-huge": CHUNKED + b"ffffffffffffffffff\r\nabc",
    "chunk-end": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"0\r\nX : y\r\n\r\n",
    "upgrade-connect": b"CONNECT / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"
    b"Upgrade: h2c\r\n\r\n",
}

Fields = list[tuple[bytes, bytes]]


async def turn(count: int = 4) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)  # noqa: TID251 - turns of the loop, not time


@dataclass(frozen=True)
class Answer:
    """One response as a client read it."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """Return the decoded body."""
        decoded: dict[str, object] = json.loads(self.body)
        return decoded


@dataclass
class App:
    """Echoes requests, tests the protocol by path, and records what it saw."""

    seen: list[tuple[str, Fields, bytes]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        """Forget what was recorded, and close the gate."""
        self.seen, self.gone, self.gate = [], [], asyncio.Event()

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request."""
        assert scope["type"] == "http"
        path = scope["path"]
        if path == "/broken":
            raise ZeroDivisionError
        if path == "/silent":
            return
        if path == "/later":
            await self.gate.wait()
        if path == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            return
        if path == "/early":
            await _answer(send, b"early", is_last=scope["query_string"] == b"last")
        elif path == "/bulk":
            await _answer(send, b"x" * BULK_BYTES, is_last=True)
        elif path in {"/large", "/drip"}:
            await self._stream(path, receive, send)
        else:
            await self._echo(path, cast("Fields", scope["headers"]), receive, send)

    async def _echo(
        self, path: str, fields: Fields, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        try:
            body = await asyncio.wait_for(self._body(receive), BODY_SECONDS)
        except TimeoutError:  # as guards/body.py does
            await _answer(send, b"late", is_last=True)
            return
        if body is None:
            self.gone.append(path)
            return
        self.seen.append((path, fields, body))
        if path == "/gated":
            await self.gate.wait()
        await _answer(send, path.encode() + b" " + body)

    async def _body(self, receive: ASGIReceiveCallable) -> bytes | None:
        body, more_body = b"", True
        while more_body:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message["body"]
            more_body = message["more_body"]
        return body

    async def _stream(
        self, path: str, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Send until the client disconnects: large pieces, or small ones."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watch = asyncio.ensure_future(self._watch(receive))
        while not watch.done():
            piece = b"x" * (100_000 if path == "/large" else 100)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await turn()
        self.gone.append(path)

    async def _watch(self, receive: ASGIReceiveCallable) -> None:
        while (await receive())["type"] == "http.request":
            pass


async def _answer(send: ASGISendCallable, body: bytes, *, is_last: bool = False) -> None:
    fields = [(b"content-length", str(len(body)).encode())]
    if is_last:
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


class Client:
    """A bare socket; it reads only when asked to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending: asyncio.Task[None] | None = None

    async def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, and let the server read it; it may have disconnected."""
        loop = asyncio.get_running_loop()
        for piece in pieces:
            try:
                await asyncio.wait_for(loop.sock_sendall(self._sock, piece), PATIENCE_SECONDS)
            except ConnectionError:
                return
            await turn()

    def send_aside(self, *pieces: bytes) -> None:
        """Send in a task, while the test continues."""
        self._sending = asyncio.create_task(self.send(*pieces))

    async def read(self, size: int = 65_536) -> bytes:
        """Return what arrives next; b'' at the end."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.sock_recv(self._sock, size), PATIENCE_SECONDS)
        except ConnectionError:
            return b""

    async def read_all(self) -> bytes:
        """Return everything until the end."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def answers(self) -> list[Answer]:
        """Return all responses until the end."""
        return split(await self.read_all())

    async def answer(self) -> Answer:
        """Return the next response and leave the connection open."""
        raw = b""
        while not (found := split(raw, is_whole=False)):
            piece = await self.read()
            assert piece, raw
            raw += piece
        return found[0]

    async def close(self) -> None:
        """Disconnect."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._sock.close()


class RunningServer:
    """A running server, and clients of it."""

    def __init__(self, server: uvicorn.Server, app: App, port: int) -> None:
        self.server = server
        self.app = app
        self.port = port

    @asynccontextmanager
    async def client(self, *, buffer_bytes: int | None = None) -> AsyncIterator[Client]:
        """Connect; `buffer_bytes` bounds what the kernel accepts without our reading."""
        sock = socket.socket()
        sock.setblocking(False)
        if buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        client = Client(sock)
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, *pieces: bytes) -> list[Answer]:
        """Send the pieces one by one, and return all responses until the server closes."""
        async with self.client() as client:
            await client.send(*pieces)
            return await client.answers()

    async def is_empty(self) -> None:
        """Return when the server has no connection left."""
        await waiting.until(lambda: not self.server.server_state.connections, what="closing")


@asynccontextmanager
async def running(
    bounds: ApiSettings = BOUNDS,
    *,
    buffer_bytes: int | None = None,
    keep_alive_seconds: int = 5,
    port: int = 0,
    admin_port: int | None = None,
    grace_seconds: int | None = None,
) -> AsyncIterator[RunningServer]:
    """Run the application behind the protocol; the kernel buffers about `buffer_bytes`."""
    app = App()
    # Through pickle, as the configuration reaches each of several processes.
    shapes = dialect.error_shapes(DIALECTS)
    http = pickle.loads(pickle.dumps(protocol.protocol(bounds, admin_port, shapes)))  # noqa: S301 - our own bytes
    with socket.socket() as listener:
        if buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            app,
            http=http,
            lifespan="off",
            log_config=None,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=grace_seconds,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await waiting.until(lambda: server.started, what="the server's start")
        try:
            yield RunningServer(server, app, listener.getsockname()[1])
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE_SECONDS)


def split(raw: bytes, *, is_whole: bool = True) -> list[Answer]:
    """Return the responses in what was read; with `is_whole`, none may be incomplete."""
    found: list[Answer] = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode("ascii").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        size = int(fields.get("content-length", -1))
        if size < 0 or len(rest) < size:
            assert not is_whole, raw
            return found
        assert status.startswith("HTTP/1.1 "), raw
        found.append(Answer(int(status.split(" ")[1]), fields, rest[:size]))
        raw = rest[size:]
    return found


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["connection"] == "close"
    assert answer.json["success"] is False
    assert answer.json["code"] == code
    assert str(answer.json["error"]).endswith(".")
    assert answer.json["request_id"] == answer.fields["x-request-id"]
    assert ids.is_id(answer.fields["x-request-id"])
