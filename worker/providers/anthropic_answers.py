"""Reads the events of Anthropic's messages API, and of others who serve it.

Owns the reading of streamed events, and of a whole message if a server sends one instead. Pure. The
calls of the upstream's own web search and their results are skipped; pages that the answer cites
and the number of searches are reported. An answer that may be paused (`pause_turn`) is kept block
by block, since it continues only when the blocks are sent back unchanged.

The type of an event without `type` is inferred from its fields. The end is the event with a known
stop reason. If the reason is unknown, or missing although usage was counted, the last event is the
end.

Where tools were offered, each block of thinking is returned with its signature as an opaque part at
its end, since it must precede the calls that follow it.

Left out of the answer: citations other than of pages, and all other tools that the upstream runs by
itself, which are never offered. Events of unknown types are ignored, as Anthropic's versioning
policy asks.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from typing_extensions import override

from shared.wire.conversation import OpaquePart
from shared.wire.message import FinishReason
from worker.providers.anthropic_usage import UsageSoFar, read_usage
from worker.providers.citations import Citations
from worker.providers.contract import (
    ChatRequest,
    Ended,
    Part,
    Paused,
    Reasoning,
    Text,
)
from worker.providers.failures import NO_ERROR, InBandError
from worker.providers.finish_reasons import AnswerFailedError, read_finish_reason
from worker.providers.kept_reasoning import THINKING_TYPES, ThinkingBlocks
from worker.providers.tolerant_json import TolerantDecoder, convert_struct, is_json, loads
from worker.providers.tool_calls import PartialToolCall, ToolCalls

DIALECT: Final = "anthropic"
_PAUSED: Final = "pause_turn"


class _Delta(msgspec.Struct):
    """A piece of a block, or the end of the message."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: Any = None
    citation: Any = None
    signature: str | None = None


class _Block(msgspec.Struct):
    """The beginning of a block."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    usage: UsageSoFar | None = None


class _Event(msgspec.Struct):
    """The fields of an event that are read."""

    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: UsageSoFar | None = None
    error: Any = None


_TYPES: Final = frozenset(
    {
        *("message_start", "message_delta", "message_stop", "message", "ping", "error"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    }
)
_decoder: Final = msgspec.json.Decoder(_Event)
_decode = _decoder.decode
_encode = msgspec.json.Encoder().encode


class MessageReader:
    """Reads the events of one answer."""

    def __init__(self, request: ChatRequest) -> None:
        self.has_ended = False
        self._request = request
        self._tolerant_decoder = TolerantDecoder(_Event, _decoder)
        self._tool_calls = ToolCalls()
        self._citations = Citations()
        # The calls that have begun, by their block, and whether they are ours to run.
        self._open: dict[int, tuple[PartialToolCall, bool]] = {}
        self._thinking = ThinkingBlocks()
        self._has_tool_call = False
        self._has_text = False
        # Signs that the answer is complete, if its last event follows.
        self._has_reason = False
        self._is_counted = False
        self._is_over = False
        self._begun_with = UsageSoFar()

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of an event, or None for the last event. Raises InBandError."""
        try:
            event = _decode(data)
        except (msgspec.MsgspecError, RecursionError):
            odd = self._tolerant_decoder.decode(data)
            if odd is None:
                return ()
            event = odd
        delta = event.delta
        if event.type == "content_block_delta" and delta is not None:
            if delta.type == "text_delta" and delta.text:
                self._has_text = True
                return (Text(delta.text),)
            return self._grow(event.index, delta)
        if event.type not in _TYPES:
            event.type = _implied(event) or event.type
        return self._read_rarer(event, data)

    def finish(self) -> Sequence[Part]:
        """Return the end of the answer, if only the end of the body shows it."""
        is_whole = self._has_reason or (self._is_over and self._is_counted and self._has_text)
        return self._end_answer("stop") if is_whole and not self.has_ended else ()

    def _read_rarer(self, event: _Event, data: bytes) -> Sequence[Part] | None:
        """Read an event that comes once for a block or for an answer."""
        if (event.error is not None and event.error not in NO_ERROR) or event.type == "error":
            raise InBandError(event.error)
        match event.type:
            case "message_stop":
                self._check_calls()
                self._is_over = True
                return None
            case "message":
                return self._read_whole(data)
            case "message_start" if event.message is not None:
                self._begun_with = event.message.usage or self._begun_with
            case "message_delta":
                return self._end(event)
            case _:
                return self._read_block(event)
        return ()

    def _read_block(self, event: _Event) -> Sequence[Part]:
        """Read the beginning of a block, a piece of a block without type, or a block's end."""
        if event.type == "content_block_start" and event.content_block is not None:
            return self._begin(event.index, event.content_block)
        if event.type == "content_block_delta" and event.delta is not None:
            return self._grow(event.index, event.delta)
        return self._close(event.index) if event.type == "content_block_stop" else ()

    def _read_whole(self, data: bytes) -> Sequence[Part]:
        """Read a message that comes whole."""
        received = loads(data)
        parts: list[Part] = []
        content = received.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for index, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                parts += self._begin(index, convert_struct(_Block, block))
                parts += self._cited(block)
                parts += self._close(index)
        usage = convert_struct(_Message, received).usage
        event = _Event("message_delta", delta=convert_struct(_Delta, received), usage=usage)
        return [*parts, *self._end(event)]

    def _cited(self, block: dict[str, Any]) -> Sequence[Part]:
        """Return the pages that a whole block cites."""
        pages = block.get("citations")
        return [
            cited
            for page in (pages if isinstance(pages, list) else ())
            if isinstance(page, dict)
            for cited in self._citations.take(page.get("url"), page.get("title"))
        ]

    def _begin(self, index: int, block: _Block) -> Sequence[Part]:
        """Begin a block. Raises TooLargeError; ValidationError if its index is still in use."""
        if not block.type.endswith("tool_use"):
            self._has_text = self._has_text or bool(block.text)
            if block.type in THINKING_TYPES and self._request.tools:
                kept = {"signature": block.signature, "data": block.data}
                self._thinking.begin(index, block.type, thinking=block.thinking, **kept)
            thought = [Reasoning(block.thinking)] if block.thinking else []
            return [*thought, *([Text(block.text)] if block.text else [])]
        if index in self._open and not self._is_lenient():
            raise msgspec.ValidationError("a call begins where another has not ended")
        call = self._tool_calls.begin(block.id, block.name)
        self._open[index] = call, block.type == "tool_use"
        if block.input:
            call.add_piece(_encode(block.input))
        return ()

    def _grow(self, index: int, delta: _Delta) -> Sequence[Part]:
        """Read a piece of a block. Raises TooLargeError, ValidationError."""
        kind = delta.type
        if delta.text and (kind == "text_delta" or not kind):
            self._has_text = True
            return (Text(delta.text),)
        if index in self._thinking:
            self._thinking.grow(index, delta.thinking, delta.signature)
        if delta.thinking and (kind == "thinking_delta" or not kind):
            return (Reasoning(delta.thinking),)
        if kind == "citations_delta" and isinstance(delta.citation, dict):
            page = delta.citation
            return tuple(self._citations.take(page.get("url"), page.get("title")))
        if delta.partial_json and (kind == "input_json_delta" or not kind):
            if index in self._open:
                self._open[index][0].add_piece(delta.partial_json.encode())
            elif not self._is_lenient():
                raise msgspec.ValidationError("arguments of no call")
        return ()

    def _close(self, index: int) -> Sequence[Part]:
        """End a block. Raises MsgspecError for a call without a name."""
        if index in self._thinking:
            kept = self._thinking.close(index)
            return (OpaquePart(DIALECT, kept, self._request.model.provider),)
        call, is_ours = self._open.pop(index, (None, False))
        if call is None or not is_ours:
            return ()
        reported = call.complete(is_needed=not self._is_lenient())
        self._has_tool_call = True
        return (reported,) if reported is not None else ()

    def _is_lenient(self) -> bool:
        """Whether a malformed call is ignored: no tool was offered, and there is text."""
        return self._has_text and not self._request.tools

    def _end(self, event: _Event) -> Sequence[Part]:
        """Read the stop reason and usage of a message. Raises AnswerFailedError."""
        parts: list[Part] = []
        reported = event.delta.stop_reason if event.delta is not None else None
        if reported == _PAUSED and not self.has_ended:
            parts += self._pause()
        elif reported and not self.has_ended:
            reason = read_finish_reason(reported)
            if reason == "unknown":
                self._has_reason = True
            elif reason is not None:
                parts += self._end_answer(reason)
        if event.usage is not None:
            used = read_usage(event.usage, self._begun_with)
            self._is_counted = self._is_counted or any(each.output_tokens for each in used)
            parts += used
        return parts

    def _end_answer(self, reason: FinishReason) -> Sequence[Part]:
        """Return the end. Raises ValidationError for an incomplete call."""
        self._check_calls()
        self.has_ended = True
        return (Ended("tool_calls" if reason == "stop" and self._has_tool_call else reason),)

    def _check_calls(self) -> None:
        """Refuse an end before that of a call. Raises ValidationError."""
        is_missing = any(is_ours for _, is_ours in self._open.values())
        if is_missing and not self._is_lenient():
            raise msgspec.ValidationError("the end comes before that of a call")

    def _pause(self) -> Sequence[Part]:
        """Refuse a pause: no search was requested that may cause one. Raises AnswerFailedError."""
        raise AnswerFailedError(_PAUSED)


class PausableMessageReader(MessageReader):
    """Reads an answer that may be paused, and keeps its blocks unchanged."""

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, list[str]] = {}

    @override
    def read(self, data: bytes) -> Sequence[Part] | None:
        try:
            event = _decode(data)
            if event.type == "content_block_start":
                self._blocks[event.index] = loads(data).get("content_block") or {}
            elif event.type == "content_block_delta" and event.delta is not None:
                self._keep(event.index, event.delta)
        except (msgspec.MsgspecError, RecursionError):
            # A block that cannot be kept unchanged is not sent back, but it is read.
            pass
        return super().read(data)

    def _keep(self, index: int, delta: _Delta) -> None:
        block = self._blocks.setdefault(index, {"type": "text", "text": ""})
        for name, more in (
            ("text", delta.text),
            ("thinking", delta.thinking),
            ("signature", delta.signature),
        ):
            if more:
                block[name] = (block.get(name) or "") + more
        if delta.partial_json:
            self._inputs.setdefault(index, []).append(delta.partial_json)
        if isinstance(delta.citation, dict):
            block["citations"] = [*(block.get("citations") or ()), delta.citation]

    @override
    def _pause(self) -> Sequence[Part]:
        for index, pieces in self._inputs.items():
            received = "".join(pieces).encode()
            if index in self._blocks and is_json(received):
                self._blocks[index]["input"] = loads(received)
        blocks = [block for _, block in sorted(self._blocks.items()) if not _is_blank(block)]
        if not blocks:
            return super()._pause()
        self.has_ended = True
        return (Paused((*self._request.so_far, *blocks)),)


def _is_blank(block: dict[str, Any]) -> bool:
    """Tell whether a block is a blank text, which the upstream refuses."""
    return block.get("type") == "text" and not str(block.get("text") or "").strip()


def _implied(event: _Event) -> str:
    """Return the type of an event without `type`, inferred from its fields."""
    delta = event.delta
    if delta is not None and (delta.stop_reason or event.usage is not None):
        return "message_delta"
    if delta is not None:
        return "content_block_delta"
    if event.content_block is not None:
        return "content_block_start"
    return "message_start" if event.message is not None else ""
