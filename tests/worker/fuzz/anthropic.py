"""Answers of Anthropic's messages, and their plain reading."""

import json
import random
from typing import Any, Final

from shared.wire.message import FinishReason
from tests.worker.fuzz.mutations import ARGUMENTS, WORDS, pages, split
from tests.worker.fuzz.reading import (
    FaultError,
    anything,
    called,
    cited,
    fields,
    from_json,
    is_error,
    mapping,
    maybe,
    one,
    used,
)
from tests.worker.providers.anthropic import (
    DONE,
    ROW,
    begun,
    closed,
    grown,
    said,
    searching,
    started,
)
from worker.providers.contract import Ended, Part, Reasoning, Text

PIECES: Final = (
    *(DONE, b'"message_stop"', b'"message_delta"', b'"content_block_stop"', b'"tool_use"'),
    *(b'"text_delta"', b'"thinking_delta"', b'"input_json_delta"', b'"index":1,', b'"usage":null,'),
    *(b'"citation":7,', b'"citations_delta"', b'"server_tool_use":null,'),
    *(b'"stop_reason":"end_turn",', b'"type":"text",', b'"text":"x",', b'"input":{"n":1},'),
)
_REASONS: Final = ("end_turn", "max_tokens", "tool_use", "refusal", "pause_turn", "", None)
_OURS: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def answer(chance: random.Random) -> bytes:
    """Return the bytes of an answer of some server of this kind."""
    parts = [started(input_tokens=chance.randrange(9), output_tokens=1), said("ping")]
    if chance.random() < 0.3:
        thinking = grown("thinking_delta", thinking=chance.choice(WORDS))
        parts += [begun(type="thinking", thinking=""), thinking, closed()]
    parts.append(begun(type="text", text=chance.choice(("", "", "So "))))
    for _ in range(chance.randrange(6)):
        parts.append(grown("text_delta", text=chance.choice(WORDS)))
    parts.append(pages(chance, ROW.cited))
    parts.append(closed())
    parts.append(searching(7) if chance.random() < 0.2 else b"")
    for index in range(1, 1 + chance.choice((0, 0, 0, 1, 2))):
        pieces = split(chance, chance.choice(ARGUMENTS[:4] if chance.random() < 0.8 else ARGUMENTS))
        parts.append(
            ROW.call(chance.choice(("a", "b", "")), chance.choice(("f", "g", "")), pieces, index)
        )
    if chance.random() < 0.05:
        parts.append(ROW.error_event(chance.choice((400, 429, 500)), "no"))
    if chance.random() < 0.9:
        usage: dict[str, Any] | None = None
        if chance.random() < 0.8:
            searches = {"web_search_requests": chance.choice((0, 1, 3, None))}
            tools = chance.choice((None, searches))
            usage = {"output_tokens": chance.randrange(9), "server_tool_use": tools}
        delta = {"stop_reason": chance.choice(_REASONS)}
        parts.append(said("message_delta", delta=delta, usage=usage))
    if chance.random() < 0.8:
        parts.append(DONE)
    return b"".join(parts)


class PlainReader:
    """The plain reading of one answer."""

    def __init__(self) -> None:
        self._begun_with: dict[str, Any] = {}
        self._open: dict[int, dict[str, Any]] = {}
        self._has_called = False
        self._has_ended = False
        self._has_said = False
        self._may_end = False
        self._counted = False
        self._is_over = False
        self._cited: list[str] = []

    def parts(self, text: str) -> list[Part] | None:
        """Return the parts of an event, or None for the last word. Raises FaultError."""
        event = _event(from_json(text))
        if event is None:
            return []
        kind, delta, index = _kind(event), event["delta"], event["index"] or 0
        if kind == "content_block_delta" and delta is not None:
            return self._grow(index, delta)
        if kind == "error" or is_error(event["error"]):
            raise FaultError
        if kind == "message_stop":
            self._check()
            self._is_over = True
            return None
        if kind == "message_start":
            self._begun_with = (event["message"] or {}).get("usage") or self._begun_with
        return self._end(event) if kind == "message_delta" else self._block(kind, event)

    def finish(self) -> list[Part]:
        """Return the end that is one because nothing follows."""
        counted = self._is_over and self._counted and self._has_said
        if self._has_ended or not (self._may_end or counted):
            return []
        return self._told("stop")

    def _block(self, kind: str, event: dict[str, Any]) -> list[Part]:
        index, block = event["index"] or 0, event["content_block"]
        if kind == "content_block_start" and block is not None:
            return self._begin(index, block)
        return self._close(index) if kind == "content_block_stop" else []

    def _grow(self, index: int, delta: dict[str, Any]) -> list[Part]:
        kind = delta["type"] or ""
        if kind in {"", "text_delta"} and delta["text"]:
            self._has_said = True
            return [Text(delta["text"])]
        if kind in {"", "thinking_delta"} and delta["thinking"]:
            return [Reasoning(delta["thinking"])]
        if kind == "citations_delta" and isinstance(delta["citation"], dict):
            return cited(self._cited, delta["citation"].get("url"), delta["citation"].get("title"))
        if kind in {"", "input_json_delta"} and delta["partial_json"]:
            if index in self._open:
                self._open[index]["pieces"] += delta["partial_json"]
            elif not self._has_said:
                raise FaultError(is_ours=True)
        return []

    def _begin(self, index: int, block: dict[str, Any]) -> list[Part]:
        if not (block["type"] or "").endswith("tool_use"):
            thought: list[Part] = [Reasoning(block["thinking"])] if block["thinking"] else []
            self._has_said = self._has_said or bool(block["text"])
            return thought + ([Text(block["text"])] if block["text"] else [])
        if index in self._open and not self._has_said:
            raise FaultError(is_ours=True)
        self._open[index] = {**block, "pieces": ""}
        return []

    def _close(self, index: int) -> list[Part]:
        block = self._open.pop(index, None)
        if block is None or block["type"] != "tool_use":
            return []
        self._has_called = True
        begun_with = json.dumps(block["input"]) if block["input"] else ""
        try:
            return [called(block["id"], block["name"], begun_with + block["pieces"])]
        except FaultError:
            if not self._has_said:
                raise
            return []

    def _end(self, event: dict[str, Any]) -> list[Part]:
        reason = (event["delta"] or {}).get("stop_reason")
        parts: list[Part] = []
        if reason and not self._has_ended:
            if reason == "pause_turn":
                raise FaultError
            known = _OURS.get(reason) if isinstance(reason, str) else None
            self._may_end = self._may_end or known is None
            parts = self._told(known) if known else []
        usage = event["usage"]
        found = self._used(usage) if usage is not None else []
        self._counted = self._counted or (bool(found) and usage["output_tokens"] > 0)
        return parts + found

    def _told(self, reason: FinishReason) -> list[Part]:
        self._check()
        self._has_ended = True
        return [Ended("tool_calls" if reason == "stop" and self._has_called else reason)]

    def _check(self) -> None:
        is_open = any(block["type"] == "tool_use" for block in self._open.values())
        if is_open and not self._has_said:
            raise FaultError(is_ours=True)

    def _used(self, usage: dict[str, Any]) -> list[Part]:
        inputs = []
        for reading in (_new, _written, _read):
            now, then = reading(usage), reading(self._begun_with)
            inputs.append(now if now is not None else then)
        asked = None if inputs[0] is None else sum(count or 0 for count in inputs)
        details = usage["output_tokens_details"] or {}
        tools = usage["server_tool_use"]
        if tools is None:
            tools = self._begun_with.get("server_tool_use") or {}
        searches = tools.get("web_search_requests")
        thought = details.get("thinking_tokens")
        return used(asked, usage["output_tokens"], thought, searches, inputs[2], inputs[1])


def _new(usage: dict[str, Any]) -> int | None:
    return usage.get("input_tokens")


def _read(usage: dict[str, Any]) -> int | None:
    return usage.get("cache_read_input_tokens")


def _written(usage: dict[str, Any]) -> int | None:
    total, split = usage.get("cache_creation_input_tokens"), usage.get("cache_creation")
    return total if total is not None or split is None else sum(filter(None, split.values()))


def _kind(event: dict[str, Any]) -> str:
    """Return the type that an event names, or else the one that its fields show."""
    event_type, delta = event["type"] or "", event["delta"]
    if event_type in _TYPES:
        return event_type
    if delta is not None:
        is_end = delta["stop_reason"] or event["usage"] is not None
        return "message_delta" if is_end else "content_block_delta"
    if event["content_block"] is not None:
        return "content_block_start"
    return "message_start" if event["message"] is not None else event_type


_TYPES: Final = (
    *("message_start", "message_delta", "message_stop", "ping", "error"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
)
_count: Final = maybe(one(int))
_usage: Final = maybe(
    fields(
        input_tokens=_count,
        cache_creation_input_tokens=_count,
        cache_creation=maybe(
            fields(ephemeral_5m_input_tokens=_count, ephemeral_1h_input_tokens=_count)
        ),
        cache_read_input_tokens=_count,
        output_tokens=_count,
        output_tokens_details=maybe(fields(thinking_tokens=_count)),
        server_tool_use=maybe(fields(web_search_requests=_count)),
    )
)
_text: Final = maybe(one(str))
_event: Final = fields(
    type=_text,
    index=_count,
    delta=maybe(
        fields(
            type=_text,
            text=_text,
            thinking=_text,
            partial_json=_text,
            stop_reason=anything,
            citation=anything,
        )
    ),
    content_block=maybe(
        fields(type=_text, text=_text, thinking=_text, id=_text, name=_text, input=maybe(mapping))
    ),
    message=maybe(fields(usage=_usage)),
    usage=_usage,
    error=anything,
)
