"""An upstream of the OpenAI kind on a real socket of 127.0.0.1, which answers as scripted.

Owns `POST /v1/chat/completions`, streamed and whole, and `GET /v1/models`; keeps every request with
the times at which it came and at which its client disconnected. Checks nothing: tests read
`requests`.

The answer comes from, in this order: `script` (answers for the next requests, each used once),
`answer` (a callable), and the bracketed words of the last user message: `Hi [tokens=20 gap=0.05]`
is answered with twenty tokens, 50 ms apart. Without brackets the answer is `You said: ` and the
message.

    tokens=N       N words                        status=N        this status, with an error body
    first=S        seconds before the first       code=WORD       the error's code
    gap=S          seconds between two            retry-after=S   this header
    cut=N          close after N bytes            error-after=N   an error event after N tokens
    huge=N         one line of N bytes            malformed       events that are not JSON
    empty          no content at all              no-usage        no token counts
    think=N        N words of reasoning before the answer

DESIGN. A bare protocol on httptools, because benches count its CPU time against the product's: an
answer without gaps is sent in one write.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Self, cast

import httptools
from typing_extensions import override

from tests.support import chat_completions
from tests.support.chat_completions import Request, ScriptedAnswer, by_words, context_error

__all__ = ["Request", "ScriptedAnswer", "ScriptedProvider", "by_words", "context_error"]

_BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_BACKLOG: Final = 1_024


class ScriptedProvider:
    """The upstream, an asynchronous context manager: entering opens the port, leaving closes."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.script: deque[ScriptedAnswer] = deque()
        self.answer: Callable[[Request], ScriptedAnswer] = by_words
        self.models = ["scripted"]
        self.keeps_requests = True
        self._port = port
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL as a catalogue would give it."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # A fleet that reconnects calls all at once; a SYN that the kernel drops is sent again only
        # after one, three and seven seconds.
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, backlog=_BACKLOG
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        connections_left = list(self._connections)
        for connection in connections_left:
            connection.abort()
        await asyncio.gather(
            *(connection.task for connection in connections_left if connection.task),
            return_exceptions=True,
        )
        await self._server.wait_closed()
        await asyncio.sleep(0)

    def choose(self, request: Request) -> ScriptedAnswer:
        """Keep the request and return its answer."""
        if self.keeps_requests:
            self.requests.append(request)
        return self.script.popleft() if self.script else self.answer(request)

    def opened(self, connection: "_Connection") -> None:
        """Add a connection."""
        self._connections.add(connection)

    def closed(self, connection: "_Connection") -> None:
        """Remove a connection."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One connection: its requests in turn, each answered by a task."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._sent_bytes = 0
        self._budget_bytes: int | None = None
        self.task: asyncio.Task[None] | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._provider.opened(self)

    @override
    def connection_lost(self, _exc: Exception | None) -> None:
        self._provider.closed(self)
        if self._request is not None and self._request.answered_at is None:
            self._request.gone_at = time.monotonic()
            self._request.ended.set()
        if self.task is not None:
            self.task.cancel()

    @override
    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    @override
    def pause_writing(self) -> None:
        self._writable.clear()

    @override
    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Called by httptools, under its names.
    def on_message_begin(self) -> None:
        self._url, self._headers = b"", {}
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > _BODY_BYTES_MAX:
            self.abort()

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        self._request = Request(method, self._url.decode(), self._headers, bytes(self._body))
        self.task = asyncio.create_task(self._respond(self._request))

    async def _respond(self, request: Request) -> None:
        if request.method != "POST":
            self._send_whole(200, {}, chat_completions.models(self._provider.models))
        else:
            answer = self._provider.choose(request)
            self._sent_bytes, self._budget_bytes = 0, answer.cut_bytes
            await self._answer(request, answer)
        request.answered_at = time.monotonic()
        request.ended.set()

    async def _answer(self, request: Request, answer: ScriptedAnswer) -> None:
        if answer.first_seconds:
            await asyncio.sleep(answer.first_seconds)
        if answer.gate is not None and answer.gate_after == 0:
            await answer.gate.wait()
        request.first_sent_at = time.monotonic()
        if answer.raw is not None:
            self._write(answer.raw)
            self._close()
        elif answer.status != 200:
            self._send_whole(answer.status, answer.headers, chat_completions.error(answer))
        elif request.is_streamed:
            await self._stream(request, answer)
        else:
            self._send_whole(200, answer.headers, chat_completions.whole(request, answer))

    async def _stream(self, request: Request, answer: ScriptedAnswer) -> None:
        self._write(
            chat_completions.head(
                200, {"content-type": "text/event-stream", **answer.headers}, None
            )
        )
        batch: list[bytes] = []
        for index, event in enumerate(chat_completions.events(request, answer)):
            is_held = answer.gate is not None and index == answer.gate_after + 1 > 1
            if batch and (answer.gap_seconds or is_held):
                await self._send(batch)
                if answer.gap_seconds:
                    await asyncio.sleep(answer.gap_seconds)
            if is_held and answer.gate is not None:
                await answer.gate.wait()
            batch.append(event)
        await self._send(batch)
        self._write(b"0\r\n\r\n")

    async def _send(self, events: list[bytes]) -> None:
        data = b"".join(events)
        events.clear()
        if data:
            self._write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writable.wait()

    def _send_whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._write(
            chat_completions.head(
                status, {"content-type": "application/json", **headers}, len(body)
            )
            + body
        )

    def _write(self, data: bytes) -> None:
        """Write; at the answer's `cut_bytes` the connection is closed."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._budget_bytes is not None and self._sent_bytes + len(data) > self._budget_bytes:
            self._transport.write(data[: self._budget_bytes - self._sent_bytes])
            self._close()
            return
        self._sent_bytes += len(data)
        self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _serve() -> None:
    async with ScriptedProvider() as provider:
        provider.keeps_requests = False
        sys.stdout.write(f"{provider.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    # For benches that need it as a process of its own: it prints its URL, and ends with its
    # standard input.
    asyncio.run(_serve())
