"""Messages, as Anthropic speaks it, and others who serve its API.

Owns the words of the dialect: what a request says, and what the events of its answer mean. Pure.
Thinking shares `max_tokens` with the answer. How it is asked for depends on the model; where the
catalogue does not say, its name decides: those since Claude 4.6 decide themselves how long they
think, all before, and models of other makers, are given half of `max_tokens`; where that is less
than the least that is allowed, they are not asked to think.

The signed thinking blocks of earlier turns are not sent back: between turns nobody needs them. A
model with a budget refuses a turn of its own that calls tools and does not begin with one, so
it is not asked to think on while the results of its calls are what it answers to.

Searching the web is a tool that the upstream runs by itself, in the version of 2025-03-05: the one
that every model since Claude 3.5 takes, and that needs no other tool beside it. Its calls and their
results are read past; what the answer cites is told, and how often it searched. One that is paused
in the middle (`pause_turn`) is taken as far as it is.

Left out of the answer: signatures, redacted thinking, citations of other than pages, and all other
tools that the upstream runs by itself, which are never offered. Events of unknown types are passed
over, as its versioning policy asks.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from shared.routing.search import MODEL_SEARCHES_MAX
from shared.sections import ReasoningOption
from shared.settings import ModelSettings, Secret
from worker.providers.calls import Calls, OpenCall
from worker.providers.citations import Citations
from worker.providers.contract import (
    ChatMessage,
    ChatRequest,
    Ended,
    EndReason,
    Image,
    Part,
    Reasoning,
    Text,
    Tool,
    Used,
    believable,
)
from worker.providers.conversation import spoken, system_prompt
from worker.providers.failures import InBandError

_REASONS: Final[dict[str, EndReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_VERSION: Final = {"anthropic-version": "2023-06-01"}
_BUDGET_TOKENS_MIN: Final = 1024
_GENERATION: Final = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:-(\d{1,2}))?(?!\d)")
_FIRST_ADAPTIVE: Final = (4, 6)
_SEARCH: Final = {
    "type": "web_search_20250305",
    "name": "web_search",
    "max_uses": MODEL_SEARCHES_MAX,
}
_NOT_IN_AN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")


class _Delta(msgspec.Struct):
    """A step of a block, or of the message: its end."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    citation: Any = None


class _Block(msgspec.Struct):
    """The beginning of a block."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class _Details(msgspec.Struct):
    thinking_tokens: int | None = None


class _Searches(msgspec.Struct):
    web_search_requests: int | None = None


class _Usage(msgspec.Struct):
    """Tokens so far; those read from a cache and written to it are not among `input_tokens`."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _Details | None = None
    server_tool_use: _Searches | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    """What we read of an event."""

    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: Any = None


_INPUTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_decode = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode


class Anthropic:
    """The dialect."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the version of the API, and the header that carries the key."""
        return _VERSION | ({"x-api-key": key.reveal()} if key else {})

    def path(self, _model: ModelSettings) -> str:
        """Return where a request goes, below the base URL."""
        return "/messages"

    def body(self, request: ChatRequest) -> bytes:
        """Return what a request says."""
        said: dict[str, Any] = {
            "model": request.model.upstream,
            "max_tokens": request.max_tokens,
            "messages": [
                {
                    "role": role,
                    "content": [block for message in group for block in _blocks(message)],
                }
                for role, group in groupby(spoken(request.messages), _role)
            ],
            "stream": True,
        }
        prompt = system_prompt(request.messages)
        if prompt:
            said["system"] = prompt
        tools = [_tool(tool) for tool in request.tools]
        if request.web_search:
            tools.append(_SEARCH)
        if tools:
            said["tools"] = tools
        if request.deep_think:
            said |= _thinking(request)
        return _encode(said)

    def reader(self) -> "Events":
        """Return what reads one answer."""
        return Events()


def _role(message: ChatMessage) -> str:
    """Return who speaks; the results of tools are a user's words."""
    return "assistant" if message.role == "assistant" else "user"


def _blocks(message: ChatMessage) -> list[dict[str, Any]]:
    """Return what a message says, as blocks, none of which is blank."""
    text = message.content if message.content.strip() else ""
    if message.role == "tool":
        result = {"type": "tool_result", "tool_use_id": _id(message.call_id)}
        return [result | ({"content": text} if text else {})]
    blocks = [_image(image) for image in message.images]
    if text:
        blocks.append({"type": "text", "text": text})
    for call in message.calls:
        named = {"id": _id(call.call_id), "name": call.tool}
        blocks.append({"type": "tool_use", **named, "input": call.arguments})
    return blocks


def _id(call_id: str) -> str:
    """Return a call's id in letters that are allowed, for it may be another upstream's."""
    return _NOT_IN_AN_ID.sub("_", call_id)


def _image(image: Image) -> dict[str, Any]:
    content = b64encode(image.content).decode()
    source = {"type": "base64", "media_type": image.media_type, "data": content}
    return {"type": "image", "source": source}


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.parameters,
    }


def _option_by_name(upstream: str) -> ReasoningOption:
    named = _GENERATION.search(upstream)
    is_adaptive = named and (int(named[1]), int(named[2] or 0)) >= _FIRST_ADAPTIVE
    return "adaptive" if is_adaptive else "budget"


def _thinking(request: ChatRequest) -> dict[str, Any]:
    """Return how a model is asked to think; nothing when it would refuse."""
    option = request.model.reasoning_option or _option_by_name(request.model.upstream)
    if option == "adaptive":
        # Without the word, what is thought is not shown.
        thinking = {"type": "adaptive", "display": "summarized"}
        return {"thinking": thinking, "output_config": {"effort": request.model.reasoning_effort}}
    if option != "budget":
        return {}
    budget_tokens = request.max_tokens // 2
    if budget_tokens < _BUDGET_TOKENS_MIN or request.messages[-1].role == "tool":
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget_tokens}}


class Events:
    """What reads the events of one answer."""

    def __init__(self) -> None:
        self._calls = Calls()
        self._citations = Citations()
        # The calls that have begun, by their block, and whether they are for us to answer.
        self._open: dict[int, tuple[OpenCall, bool]] = {}
        self._has_called = False
        self._begun_with = _Usage()

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of an event, or None for the last word. Raises InBandError."""
        event = _decode(data)
        delta = event.delta
        if event.type == "content_block_delta" and delta is not None:
            if delta.type == "text_delta":
                return (Text(delta.text),) if delta.text else ()
            return self._grow(event.index, delta)
        return self._read_rarer(event)

    def _read_rarer(self, event: _Event) -> Sequence[Part] | None:
        """Read what comes once for a block or for an answer."""
        if event.error is not None or event.type == "error":
            raise InBandError(event.error)
        match event.type:
            case "message_stop" if not self._open:
                return None
            case "message_stop":
                raise msgspec.ValidationError("the end comes before that of a call")
            case "message_start" if event.message is not None:
                self._begun_with = event.message.usage or self._begun_with
            case "content_block_start" if event.content_block is not None:
                return self._begin(event.index, event.content_block)
            case "content_block_stop":
                return self._close(event.index)
            case "message_delta":
                return self._end(event)
            case _:
                pass
        return ()

    def _begin(self, index: int, block: _Block) -> Sequence[Part]:
        """Begin a block. Raises TooLargeError, and ValidationError for one in another's place."""
        if not block.type:
            raise msgspec.ValidationError("a block is of no type")
        if not block.type.endswith("tool_use"):
            thought = [Reasoning(block.thinking)] if block.thinking else []
            return [*thought, *([Text(block.text)] if block.text else [])]
        if index in self._open:
            raise msgspec.ValidationError("a call begins where another has not ended")
        call = self._calls.begin(block.id, block.name)
        self._open[index] = call, block.type == "tool_use"
        if block.input:
            call.grow(_encode(block.input))
        return ()

    def _grow(self, index: int, delta: _Delta) -> Sequence[Part]:
        """Take another step of a block than one of text. Raises TooLargeError, ValidationError."""
        if delta.type == "thinking_delta" and delta.thinking:
            return (Reasoning(delta.thinking),)
        if delta.type == "citations_delta" and isinstance(delta.citation, dict):
            page = delta.citation
            return tuple(self._citations.take(page.get("url"), page.get("title")))
        if delta.type == "input_json_delta" and delta.partial_json:
            if index not in self._open:
                raise msgspec.ValidationError("arguments of no call")
            self._open[index][0].grow(delta.partial_json.encode())
        return ()

    def _close(self, index: int) -> Sequence[Part]:
        """End a block; a call is whole now. Raises MsgspecError if it is not."""
        call, is_ours = self._open.pop(index, (None, False))
        if call is None or not is_ours:
            return ()
        self._has_called = True
        return (call.whole(),)

    def _end(self, event: _Event) -> Sequence[Part]:
        """Read how the message ended and what it used. Raises ValidationError for an open call."""
        parts: list[Part] = []
        reason = event.delta.stop_reason if event.delta is not None else None
        if reason:
            if self._open:
                raise msgspec.ValidationError("the end comes before that of a call")
            told = _REASONS.get(reason, "other")
            parts.append(Ended("tool_calls" if told == "stop" and self._has_called else told))
        if event.usage is not None:
            parts += _used(event.usage, self._begun_with)
        return parts


def _used(usage: _Usage, begun_with: _Usage) -> Sequence[Used]:
    """Return what was used, if it can be believed.

    Counts are of the whole answer so far. Of the input, some servers speak at the beginning only;
    what they say there of the output is no count.
    """
    inputs = [
        getattr(usage, name) if getattr(usage, name) is not None else getattr(begun_with, name)
        for name in _INPUTS
    ]
    if inputs[0] is None or usage.output_tokens is None:
        return ()
    details = usage.output_tokens_details
    thought = (details.thinking_tokens if details is not None else None) or 0
    tools = usage.server_tool_use or begun_with.server_tool_use
    searches = (tools.web_search_requests if tools is not None else None) or 0
    asked = sum(count or 0 for count in inputs)
    used = believable(asked, usage.output_tokens, thought, searches)
    return (used,) if used is not None else ()
