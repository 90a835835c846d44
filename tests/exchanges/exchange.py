"""One exchange with an upstream: the message, the bytes that come back, the expected outcome.

Owns the types of both and short functions that build the bytes of each dialect. A reply is a
sequence of pieces: bytes that are sent as they are, and floats, seconds of pause between them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from shared.settings import Dialect

Piece = bytes | float
Json = dict[str, Any]

MESSAGE: Final = "hello there"
ANSWER: Final = "one two three"
# Placeholders in a reply: ten minutes after it is sent, as an HTTP date and as RFC 3339.
SOON_DATE: Final = "(soon, as a date)"
SOON_TIME: Final = "(soon, as a time)"


class Expected(NamedTuple):
    """The expected outcome of an exchange; a field that is None is not compared.

    `failure` is `category/CODE`. `stage` is that of a generation that waits.
    """

    state: str = "completed"
    content: str | None = ANSWER
    failure: str = ""
    calls: int | None = 1
    finish_reason: str | None = "stop"
    reasoning: str | None = None
    credits: float | None = None
    retryable: bool | None = None
    stage: str | None = None


class Exchange(NamedTuple):
    """A named exchange. `marker`: only messages that contain it get the reply, others an answer.

    `before` are messages that are answered in the same session first. With `refuses`, requests
    whose body contains that text get the reply, and all others an answer; with `until`, those
    whose body does not contain it. With `times`, only that many first calls get the reply.
    """

    name: str
    reply: tuple[Piece, ...]
    expected: Expected = Expected()
    dialect: Dialect = "openai"
    message: str = MESSAGE
    fields: Mapping[str, object] = {}
    model: Mapping[str, Any] = {}
    provider: Mapping[str, Any] = {}
    marker: str = ""
    before: tuple[str, ...] = ()
    refuses: str = ""
    until: str = ""
    times: int = 0


def completed(
    content: str = ANSWER,
    *,
    calls: int = 1,
    finish_reason: str | None = "stop",
    reasoning: str | None = None,
    credits_used: float | None = None,
) -> Expected:
    """Return the outcome of a complete answer."""
    whole = Expected("completed", content, "", calls, finish_reason, reasoning)
    return whole._replace(credits=credits_used)


def failed(
    failure: str,
    *,
    calls: int | None = 1,
    content: str | None = "",
    retryable: bool | None = None,
    credits_used: float | None = 0.0,
) -> Expected:
    """Return the outcome of a failure, `category/CODE`; it costs nothing unless given."""
    ended = Expected("failed", content, failure, calls, finish_reason=None)
    return ended._replace(credits=credits_used, retryable=retryable)


def waiting(calls: int | None = 1) -> Expected:
    """Return the outcome of a generation that waits for a retry."""
    return Expected("processing", None, calls=calls, finish_reason=None, stage="retrying")


# -- bytes -----------------------------------------------------------------------------------------


def head(status: int, headers: Mapping[str, str] = {}, *, length: int | None = None) -> bytes:
    """Return the head of an HTTP response; without a length, closing ends the body."""
    fields = {"content-type": "application/json", **headers}
    fields |= {"connection": "close"} if length is None else {"content-length": str(length)}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(line for line in lines if not line.endswith(": ")) + "\r\n\r\n").encode()


def refusal(status: int, body: object, headers: Mapping[str, str] = {}) -> tuple[bytes, ...]:
    """Return a refusal; a body that is no string is sent as JSON."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return (head(status, headers, length=len(content)) + content,)


def stream(
    *events: object, headers: Mapping[str, str] = {"content-type": "text/event-stream"}
) -> tuple[Piece, ...]:
    """Return a stream of events: dicts as JSON, texts as they are, floats are pauses."""
    pieces: list[Piece] = [head(200, headers)]
    pieces += (each if isinstance(each, float) else event(each) for each in events)
    return tuple(pieces)


def event(content: object) -> bytes:
    """Return one event: a dict with `type` as Anthropic writes it, others with data alone."""
    if isinstance(content, bytes):
        return content
    text = content if isinstance(content, str) else json.dumps(content)
    named = isinstance(content, dict) and "type" in content and "choices" not in content
    name = f"event: {content['type']}\n" if named and isinstance(content, dict) else ""
    return f"{name}data: {text}\n\n".encode()


# -- chat completions


def chunk(delta: Json, finish: str | None = None, **choice: object) -> Json:
    """Return a chunk of an answer."""
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}],
    }


def text_delta(text: str = ANSWER) -> Json:
    """Return a chunk with a piece of text."""
    return chunk({"content": text})


def usage(**counts: object) -> Json:
    """Return the chunk with the token counts."""
    reported = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **counts}
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": reported}


DONE: Final = "[DONE]"


def openai(*events: object, finish: str | None = "stop", **counts: object) -> tuple[Piece, ...]:
    """Return a stream that ends as chat completions do."""
    end = () if finish is None else (chunk({}, finish),)
    return stream(*events, *end, usage(**counts), DONE)


# -- Anthropic's messages


def claude(
    *events: object, stop: str | None = "end_turn", used: Mapping[str, object] | None = None
) -> tuple[Piece, ...]:
    """Return a stream that begins and ends as Anthropic's do."""
    begin = {
        "type": "message_start",
        "message": {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "x",
            "stop_reason": None,
            "usage": {"input_tokens": 7, "output_tokens": 1},
        },
    }
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": None},
        "usage": {"output_tokens": 3} if used is None else used,
    }
    return stream(begin, *events, end, {"type": "message_stop"})


def block(index: int, kind: str, *deltas: Json, **start: object) -> tuple[Json, ...]:
    """Return a content block of Anthropic's, from its start to its stop."""
    return (
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **start}},
        *({"type": "content_block_delta", "index": index, "delta": each} for each in deltas),
        {"type": "content_block_stop", "index": index},
    )


def prose(text: str = ANSWER, index: int = 0) -> tuple[Json, ...]:
    """Return a content block with text."""
    return block(index, "text", {"type": "text_delta", "text": text}, text="")


# -- Gemini's


def candidate(*parts: Json, finish: str | None = None, **other: object) -> Json:
    """Return a part of a Gemini answer."""
    one: Json = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        one["finishReason"] = finish
    return {"candidates": [one | other]}


def metered(answer: Json, **counts: object) -> Json:
    """Return a part of a Gemini answer with the token counts."""
    reported = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10, **counts}
    return answer | {"usageMetadata": reported}


def gemini(*events: object) -> tuple[Piece, ...]:
    """Return a stream as Gemini sends it."""
    return stream(*events)


def plain(dialect: Dialect) -> tuple[Piece, ...]:
    """Return the ordinary answer of a dialect."""
    match dialect:
        case "openai":
            return openai(text_delta())
        case "anthropic":
            return claude(*prose())
        case "gemini":
            return gemini(metered(candidate({"text": ANSWER}, finish="STOP")))


def joined(reply: Sequence[Piece]) -> bytes:
    """Return the bytes of a reply without its pauses."""
    return b"".join(each for each in reply if isinstance(each, bytes))
