"""A scripted upstream of the OpenAI kind, on a real socket of 127.0.0.1.

Owns `POST /v1/chat/completions`, streamed and whole, and `GET /v1/models`; answers what it is told
to and keeps every request with the moments at which it came and at which its client went. Refuses
to judge what it is asked: tests look at `requests`.

What to answer is asked of, in this order: `script` (answers for the requests to come, each used
once), `answer` (a callable), and the words of the last user message: `Hello [tokens=20 gap=0.05]`
is answered with twenty tokens, 50 ms apart. Without words in brackets the answer is `You said: `
and the message.

    tokens=N       this many words of filling     status=N        this status, with an error body
    first=S        seconds before the first       code=WORD       the error's code
    gap=S          seconds between two            retry-after=S   this header
    cut=N          end the line after N bytes     error-after=N   an error event after N tokens
    huge=N         one line of N bytes            malformed       events that are not JSON
    empty          no content at all              no-usage        no usage, as some servers do

DESIGN. A bare protocol on httptools, because benches count its CPU time against ours: an answer
without gaps leaves in one write.
"""

import asyncio
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, cast

import httptools
import msgspec
from typing_extensions import override

_WORDS: Final = re.compile(r"\[([^\]]*)\]\s*$")
_TOKEN: Final = re.compile(r"\s*\S+")
_BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_encode = msgspec.json.encode


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with one request. `text` of None repeats the last user message.

    `gate` holds the answer back until it is set: before the first token, or after `gate_after` of
    them. `raw` is sent as it stands in place of any answer, and the line is cut.
    """

    text: str | None = None
    first_seconds: float = 0.0
    gap_seconds: float = 0.0
    gate: asyncio.Event | None = None
    gate_after: int = 0
    status: int = 200
    code: str | None = None
    message: str = "scripted failure"
    headers: dict[str, str] = {}
    cut_bytes: int | None = None
    error_after: int | None = None
    huge_bytes: int = 0
    is_malformed: bool = False
    has_usage: bool = True
    has_done: bool = True
    finish_reason: str = "stop"
    raw: bytes | None = None


class Request:
    """A request as it came, in moments of `time.monotonic`; `gone_at` is None while one listens.

    `answered_at` is when the last byte of the answer was given to the line, `ended` is set when the
    request was answered or its client has gone.
    """

    def __init__(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.raw = raw
        self.body: dict[str, Any] = msgspec.json.decode(raw) if raw else {}
        self.came_at = time.monotonic()
        self.first_sent_at: float | None = None
        self.answered_at: float | None = None
        self.gone_at: float | None = None
        self.ended = asyncio.Event()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent."""
        return cast("list[dict[str, Any]]", self.body.get("messages", []))

    @property
    def last(self) -> str:
        """The content of the last user message."""
        said = [message["content"] for message in self.messages if message["role"] == "user"]
        return str(said[-1]) if said else ""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is to come as events."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with what was used."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


def by_words(request: Request) -> Answer:
    """Return what the bracketed words of the last user message ask for."""
    found = _WORDS.search(request.last)
    if found is None:
        return Answer()
    words = dict(word.partition("=")[::2] for word in found[1].split())
    filling = (
        " ".join(f"word{n}" for n in range(int(words["tokens"]))) if "tokens" in words else None
    )
    status = int(words.get("status", 200))
    return Answer(
        text="" if "empty" in words else filling,
        first_seconds=float(words.get("first", 0)),
        gap_seconds=float(words.get("gap", 0)),
        status=status,
        code=words.get("code"),
        headers={"retry-after": words["retry-after"]} if "retry-after" in words else {},
        cut_bytes=int(words["cut"]) if "cut" in words else None,
        error_after=int(words["error-after"]) if "error-after" in words else None,
        huge_bytes=int(words.get("huge", 0)),
        is_malformed="malformed" in words,
        has_usage="no-usage" not in words,
    )


def context_error(tokens_max: int) -> Answer:
    """Return the refusal of a conversation that is longer than the model's window."""
    return Answer(
        status=400,
        code="context_length_exceeded",
        message=f"This model's maximum context length is {tokens_max} tokens.",
    )


class Provider:
    """The upstream, an asynchronous context manager: entering opens the port, leaving closes."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.script: deque[Answer] = deque()
        self.answer: Callable[[Request], Answer] = by_words
        self.models = ["scripted"]
        self.keeps_requests = True
        self._port = port
        self._lines: set[_Line] = set()
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
        return len(self._lines)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Line(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        lines = list(self._lines)
        for line in lines:
            line.abort()
        await asyncio.gather(*(line.task for line in lines if line.task), return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)

    def choose(self, request: Request) -> Answer:
        """Keep the request and return what to answer it."""
        if self.keeps_requests:
            self.requests.append(request)
        return self.script.popleft() if self.script else self.answer(request)

    def opened(self, line: "_Line") -> None:
        """Count a client."""
        self._lines.add(line)

    def closed(self, line: "_Line") -> None:
        """Count a client out."""
        self._lines.discard(line)


class _Line(asyncio.Protocol):
    """One connection: requests one after the other, each answered by a task."""

    def __init__(self, provider: Provider) -> None:
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

    # What httptools calls, by its own names.
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
            self._send_whole(200, {}, _models(self._provider.models))
        else:
            answer = self._provider.choose(request)
            self._sent_bytes, self._budget_bytes = 0, answer.cut_bytes
            await self._answer(request, answer)
        request.answered_at = time.monotonic()
        request.ended.set()

    async def _answer(self, request: Request, answer: Answer) -> None:
        if answer.first_seconds:
            await asyncio.sleep(answer.first_seconds)
        if answer.gate is not None and answer.gate_after == 0:
            await answer.gate.wait()
        request.first_sent_at = time.monotonic()
        if answer.raw is not None:
            self._write(answer.raw)
            self._close()
        elif answer.status != 200:
            self._send_whole(answer.status, answer.headers, _error(answer))
        elif request.is_streamed:
            await self._stream(request, answer)
        else:
            self._send_whole(200, answer.headers, _whole(request, answer))

    async def _stream(self, request: Request, answer: Answer) -> None:
        self._write(_head(200, {"content-type": "text/event-stream", **answer.headers}, None))
        batch: list[bytes] = []
        for index, event in enumerate(_events(request, answer)):
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
            _head(status, {"content-type": "application/json", **headers}, len(body)) + body
        )

    def _write(self, data: bytes) -> None:
        """Write, as far as the answer's `cut_bytes` goes; then the line is cut."""
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


def _head(status: int, headers: dict[str, str], length: int | None) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} Scripted", framing, *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _text(request: Request, answer: Answer) -> str:
    return f"You said: {request.last}" if answer.text is None else answer.text


def _usage(request: Request, tokens: int) -> dict[str, int]:
    asked = sum(len(_TOKEN.findall(str(message.get("content")))) for message in request.messages)
    return {"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens}


def _events(request: Request, answer: Answer) -> Iterator[bytes]:
    """Yield the events of a stream, in the order and shape in which such servers send them."""
    if answer.huge_bytes:
        yield b"data: " + b"x" * answer.huge_bytes + b"\n\n"
    if answer.is_malformed:
        yield b"data: {not json\n\n"
    tokens = _TOKEN.findall(_text(request, answer))
    model = str(request.body.get("model", ""))
    yield _event(model, {"role": "assistant", "content": ""})
    for index, token in enumerate(tokens):
        if index == answer.error_after:
            yield b"data: " + _error(answer) + b"\n\n"
            return
        yield _event(model, {"content": token})
    yield _event(model, {}, answer.finish_reason)
    if answer.has_usage and request.wants_usage:
        usage = _usage(request, len(tokens))
        yield b"data: " + _encode({**_chunk(model), "choices": [], "usage": usage}) + b"\n\n"
    if answer.has_done:
        yield b"data: [DONE]\n\n"


def _event(model: str, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + _encode({**_chunk(model), "choices": [choice]}) + b"\n\n"


def _chunk(model: str) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}


def _whole(request: Request, answer: Answer) -> bytes:
    text = _text(request, answer)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": answer.finish_reason,
    }
    reply: dict[str, object] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request.body.get("model"),
        "choices": [choice],
    }
    if answer.has_usage:
        reply["usage"] = _usage(request, len(_TOKEN.findall(text)))
    return b"{not json" if answer.is_malformed else _encode(reply)


def _error(answer: Answer) -> bytes:
    error = {
        "message": answer.message,
        "type": "scripted_error",
        "code": answer.code,
        "param": None,
    }
    return _encode({"error": error})


def _models(names: list[str]) -> bytes:
    return _encode({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


async def _serve() -> None:
    async with Provider() as provider:
        provider.keeps_requests = False
        sys.stdout.write(f"{provider.url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    # For benches that want it in a process of its own; it prints its URL and stays until it is
    # killed.
    asyncio.run(_serve())
