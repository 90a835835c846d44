"""Scripted answers of an upstream of the OpenAI kind, and the bytes that they become.

Owns the shapes of chat completions as servers of that kind send them. Opens no socket and waits for
nothing: `scripted_provider` does.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import msgspec

_WORDS: Final = re.compile(r"\[([^\]]*)\]\s*$")
_TOKEN: Final = re.compile(r"\s*\S+")
_encode = msgspec.json.encode


class ScriptedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer one request. `text` of None repeats the last user message.

    `prompt_tokens` is what the prompt is counted as, in place of its words; `cached_tokens` and
    `cache_write_tokens` are parts of it. `reasoning` is sent before the text, as deltas named
    `reasoning_as`; its tokens are counted like those of the text. `calls` of tools, each an id, a
    name and arguments, follow the text and end the answer with the reason `tool_calls`. `pages`,
    each a URL and a title, are cited after the text. The answer waits until `gate` is set: before
    the first token, or after `gate_after` tokens.
    `raw` is sent unchanged in place of an answer, and the connection is closed.
    """

    text: str | None = None
    reasoning: str = ""
    reasoning_as: str = "reasoning_content"
    pages: tuple[tuple[str, str], ...] = ()
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
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    has_done: bool = True
    finish_reason: str = "stop"
    calls: tuple[tuple[str, str, str], ...] = ()
    raw: bytes | None = None


class Request:
    """A request as it came; times are of `time.monotonic`.

    `answered_at` is when the last byte of the answer was written. `gone_at` is when the client
    disconnected before that, else None. `ended` is set by either.
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
        """The messages of the request."""
        return cast("list[dict[str, Any]]", self.body.get("messages", []))

    @property
    def last(self) -> str:
        """The content of the last user message."""
        user_messages = [
            message["content"] for message in self.messages if message["role"] == "user"
        ]
        return str(user_messages[-1]) if user_messages else ""

    @property
    def is_streamed(self) -> bool:
        """Whether a stream of events was requested."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether the stream must end with the token counts."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


def by_words(request: Request) -> ScriptedAnswer:
    """Return the answer that the bracketed words of the last user message describe."""
    found = _WORDS.search(request.last)
    if found is None:
        return ScriptedAnswer()
    words = dict(word.partition("=")[::2] for word in found[1].split())
    filling = (
        " ".join(f"word{n}" for n in range(int(words["tokens"]))) if "tokens" in words else None
    )
    status = int(words.get("status", 200))
    return ScriptedAnswer(
        text="" if "empty" in words else filling,
        reasoning=" ".join(f"thought{n}" for n in range(int(words.get("think", 0)))),
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


def context_error(tokens_max: int) -> ScriptedAnswer:
    """Return the refusal of a conversation that is longer than the model's window."""
    return ScriptedAnswer(
        status=400,
        code="context_length_exceeded",
        message=f"This model's maximum context length is {tokens_max} tokens.",
    )


def head(status: int, headers: dict[str, str], length: int | None) -> bytes:
    """Return the head of a response; without a length the body is chunked."""
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} Scripted", framing, *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _text(request: Request, answer: ScriptedAnswer) -> str:
    return f"You said: {request.last}" if answer.text is None else answer.text


def _tokens(request: Request, answer: ScriptedAnswer) -> list[tuple[str, str]]:
    """Return every token with the field of the delta that carries it."""
    reasoning_tokens = [(answer.reasoning_as, token) for token in _TOKEN.findall(answer.reasoning)]
    return reasoning_tokens + [
        ("content", token) for token in _TOKEN.findall(_text(request, answer))
    ]


def _usage(
    request: Request, answer: ScriptedAnswer, tokens: list[tuple[str, str]]
) -> dict[str, object]:
    prompt_tokens = answer.prompt_tokens or sum(
        len(_TOKEN.findall(str(message.get("content")))) for message in request.messages
    )
    reasoning_tokens = sum(name != "content" for name, _ in tokens)
    usage: dict[str, object] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(tokens),
        "total_tokens": prompt_tokens + len(tokens),
    }
    if reasoning_tokens:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    details = {
        "cached_tokens": answer.cached_tokens,
        "cache_write_tokens": answer.cache_write_tokens,
    }
    if any(details.values()):
        usage["prompt_tokens_details"] = {name: count for name, count in details.items() if count}
    return usage


def events(request: Request, answer: ScriptedAnswer) -> Iterator[bytes]:
    """Yield the events of a stream, in the order and shape in which such servers send them."""
    if answer.huge_bytes:
        yield b"data: " + b"x" * answer.huge_bytes + b"\n\n"
    if answer.is_malformed:
        yield b'data: {"choices": [{"delta": {"content": "\n\n'
    tokens = _tokens(request, answer)
    model = str(request.body.get("model", ""))
    yield _event(model, {"role": "assistant", "content": ""})
    for index, (name, token) in enumerate(tokens):
        if index == answer.error_after:
            yield b"data: " + error(answer) + b"\n\n"
            return
        yield _event(model, {name: token})
    yield from _ending(model, answer)
    if answer.has_usage and request.wants_usage:
        usage = _usage(request, answer, tokens)
        yield b"data: " + _encode({**_chunk(model), "choices": [], "usage": usage}) + b"\n\n"
    if answer.has_done:
        yield b"data: [DONE]\n\n"


def _ending(model: str, answer: ScriptedAnswer) -> Iterator[bytes]:
    """Yield what follows the text: cited pages, calls of tools, the reason of the end."""
    if answer.pages:
        yield _event(model, {"annotations": [_annotation(*page) for page in answer.pages]})
    for index, call in enumerate(answer.calls):
        yield _event(model, {"tool_calls": [_call(index, *call)]})
    yield _event(model, {}, "tool_calls" if answer.calls else answer.finish_reason)


def _call(index: int, call_id: str, tool: str, arguments: str) -> dict[str, object]:
    function = {"name": tool, "arguments": arguments}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _annotation(url: str, title: str) -> dict[str, object]:
    return {"type": "url_citation", "url_citation": {"url": url, "title": title}}


def _event(model: str, delta: Mapping[str, object], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + _encode({**_chunk(model), "choices": [choice]}) + b"\n\n"


def _chunk(model: str) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}


def whole(request: Request, answer: ScriptedAnswer) -> bytes:
    """Return the body of an answer that is not streamed."""
    text = _text(request, answer)
    reasoning_tokens = {answer.reasoning_as: answer.reasoning} if answer.reasoning else {}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **reasoning_tokens},
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
        reply["usage"] = _usage(request, answer, _tokens(request, answer))
    return b"{not json" if answer.is_malformed else _encode(reply)


def error(answer: ScriptedAnswer) -> bytes:
    """Return the body of a refusal."""
    error = {
        "message": answer.message,
        "type": "scripted_error",
        "code": answer.code,
        "param": None,
    }
    return _encode({"error": error})


def models(names: list[str]) -> bytes:
    """Return the list of models."""
    return _encode({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
