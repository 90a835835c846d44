"""Every field of a valid answer, one at a time, as a value of another type: what is still read.

Owns the answers, whose text is known, and the values that replace a field. A field that holds a
piece of the text or the end of the answer is left to the other fuzz. Whatever the value, nothing
but a ProviderError may be raised, and an answer whose text and end arrived must not be lost.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from tests.worker.providers.calls import Received, connect, listen
from tests.worker.providers.dialects import named
from tests.worker.providers.memory_upstream import MemoryTransport

ABSENT: Final = "absent"
# As JSON, since some of it is nothing that Python would write.
VALUES: Final[tuple[str, ...]] = (
    *("null", "0", "7", "-1", "2.5", "1e999", "NaN", "9" * 40, "9" * 5000, "true", "false"),
    *('""', '"x"', '"7"', '"null"', '"\\ud83d"', '"\\ude00x"', "[]", "[null]", '["x"]', "[[7]]"),
    *("{}", '{"a":1}', '[{"type":"text","text":""}]', '"' + "y" * 10_000 + '"', ABSENT),
)
_MARK: Final = "@@@"
_SAID: Final = ("one ", "two ", "three")
TEXT: Final = "".join(_SAID)


def _openai() -> list[dict[str, Any]]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return {**head, "system_fingerprint": "f", "choices": [choice], "usage": None}

    function = {"name": "f", "arguments": '{"a":1}'}
    call = {"index": 0, "id": "x", "type": "function", "function": function}
    page = {"url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 3}
    cited = [{"type": "url_citation", "url_citation": page}]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    details = {"reasoning_tokens": 1, "audio_tokens": 0}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"reasoning_content": "hm", "reasoning": "hm"}),
        *(chunk({"content": text}) for text in _SAID),
        chunk({"annotations": cited, "images": [picture]}),
        chunk({"tool_calls": [call]}),
        chunk({}, "stop"),
        {"id": "c", "choices": [], "usage": {**usage, "completion_tokens_details": details}},
    ]


def _anthropic() -> list[dict[str, Any]]:
    usage = {"input_tokens": 7, "cache_read_input_tokens": 0, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "x"}
    page = {"type": "web_search_result_location", "url": "https://a.example/", "title": "A"}
    ended = {**usage, "output_tokens": 3, "server_tool_use": {"web_search_requests": 1}}
    begun = {"type": "tool_use", "id": "x", "name": "f", "input": {}}
    texts = [{"type": "text_delta", "text": text} for text in _SAID]
    pieces = {"type": "input_json_delta", "partial_json": '{"a":1}'}
    return [
        {"type": "message_start", "message": {**message, "usage": usage}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": text} for text in texts),
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "citations_delta", "citation": page},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": begun},
        {"type": "content_block_delta", "index": 1, "delta": pieces},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": ended,
        },
        {"type": "message_stop"},
    ]


def _gemini() -> list[dict[str, Any]]:
    def chunk(*parts: dict[str, Any], **more: object) -> dict[str, Any]:
        candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0, **more}
        return {"candidates": [candidate], "modelVersion": "m", "responseId": "r"}

    page = {"web": {"uri": "https://a.example/", "title": "A"}}
    grounding = {"groundingChunks": [page], "webSearchQueries": ["x"]}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 1}
    blob = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
    return [
        chunk({"text": "hm", "thought": True}),
        *(chunk({"text": text}) for text in _SAID),
        chunk({"functionCall": {"id": "x", "name": "f", "args": {"a": 1}}}, safetyRatings=[]),
        chunk(blob, groundingMetadata=grounding),
        {
            **chunk({"text": ""}, finishReason="STOP", avgLogprobs=-0.1),
            "usageMetadata": {**usage, "totalTokenCount": 11},
            "promptFeedback": {"safetyRatings": []},
        },
    ]


ANSWERS: Final = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}
Path = tuple[str | int, ...]


def mutants(name: str) -> Iterator[tuple[Path, str, bytes]]:
    """Yield every field's path, what is put in its place, and the stream that this makes."""
    events = ANSWERS[name]()
    for path in _paths(events):
        for value in VALUES:
            yield path, value, _stream(name, events, path, value)


def _paths(node: object, at: Path = ()) -> Iterator[Path]:
    items: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(node, dict):
        items = iter(node.items())
    elif isinstance(node, list):
        items = iter(enumerate(node))
    for key, item in items:
        yield from _paths(item, (*at, key))
        if at:
            yield (*at, key)


def _stream(name: str, events: list[dict[str, Any]], path: Path, value: str) -> bytes:
    """Return a stream in which one field is another value."""
    changed = json.loads(json.dumps(events))
    *way, last = path
    node = changed
    for key in way:
        node = node[key]
    if value == ABSENT:
        del node[last]
    else:
        node[last] = _MARK
    put = value if value != ABSENT else _MARK
    said = (json.dumps(each).replace(f'"{_MARK}"', put) for each in changed)
    stream = "".join(f"data: {each}\n\n" for each in said)
    return (stream + ("data: [DONE]\n\n" if name == "openai" else "")).encode()


def is_free(name: str, path: Path) -> bool:
    """Tell whether any value of a field leaves the answer readable."""
    held = json.dumps(_at(ANSWERS[name](), path))
    holds_text = any(json.dumps(text) in held for text in _SAID)
    is_end = any(word in held for word in ('"stop"', '"end_turn"', '"STOP"', '"message_stop"'))
    # Of these, some values say something else that a stream may lawfully say.
    is_word = path[-1] in {"type", "thought", "finish_reason", "stop_reason", "finishReason"}
    return not (holds_text or is_end or is_word or _adds_text(path))


def _at(node: Any, path: Path) -> Any:  # noqa: ANN401  a value of any kind
    for key in path:
        node = node[key]
    return node


def _adds_text(path: Path) -> bool:
    """Tell whether a replaced value is, or may hold, text of the answer."""
    return bool({"content", "text", "parts", "candidates", "choices", "delta"} & {path[-1]}) or (
        isinstance(path[-1], int)
        or path[-1] in {"content_block", "transcript", "refusal", "promptFeedback", "blockReason"}
    )


async def losses(name: str, every: int = 1, start: int = 0) -> AsyncIterator[str]:
    """Yield a sentence for each mutant of a dialect from which an answer was lost."""
    memory = MemoryTransport()
    provider = connect(named(name), "http://127.0.0.1:9/v1", lines=memory)
    for number, (path, value, stream) in enumerate(mutants(name)):
        if number % every != start:
            continue
        memory.reads = [stream]
        await asyncio.sleep(0)  # noqa: TID251  a turn of the loop, no time
        try:
            received = await listen(provider)
        except Exception as fault:  # noqa: BLE001  whatever it is, it is found
            yield f"{name} {path} = {value[:40]} raised {fault!r}"
            continue
        if loss := _loss(name, path, received):
            yield f"{name} {path} = {value[:40]}: {loss}"
    await provider.close()


def _loss(name: str, path: Path, received: Received) -> str:
    if received.reasons and received.error is not None:
        return f"ended and yet {received.error.failure.code}"
    if is_free(name, path) and (received.text != TEXT or not received.reasons):
        code = received.error.failure.code if received.error is not None else None
        return f"heard {received.text!r} {received.reasons} {code}"
    return ""
