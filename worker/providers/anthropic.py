"""Requests of Anthropic's messages API, and of others who serve it.

Owns the body, path and headers of a request; `anthropic_answers` reads the answer. Pure.

Thinking shares `max_tokens` with the answer. How it is requested depends on the model; if the
catalogue does not say, the model's name decides. Models since Claude 4.6 decide themselves how long
they think; all earlier ones, and models of other vendors, get a budget of half of `max_tokens`. If
that is below the minimum budget, thinking is not requested.

Signed thinking blocks are sent back where the conversation has them: within a turn with calls. A
model with a budget refuses a conversation in which its own turn calls tools without beginning with
such a block, so thinking is not requested while the last messages are results of such calls; nor
where a call is required, with which no model may think.

Instructions in the middle of a conversation become part of the system prompt. Arguments that are no
JSON object are sent in one.

Web search is a tool that the upstream runs by itself, in its version of 2025-03-05: every model
since Claude 3.5 accepts it, and it needs no other tool. An answer that is paused continues when its
content so far is sent back unchanged.
"""

import re
from base64 import b64encode
from itertools import groupby
from typing import Any, Final

import msgspec

from shared.routing.search_estimate import MODEL_SEARCHES_MAX
from shared.settings import ModelSettings, ReasoningOption, Secret
from shared.wire.conversation import (
    DEFAULT_SAMPLING,
    FREE_TEXT,
    CallPart,
    OpaquePart,
    TextPart,
    ToolDefinition,
)
from worker.providers.anthropic_answers import (
    DIALECT,
    MessageReader,
    PausableMessageReader,
)
from worker.providers.anthropic_caching import add_breakpoints
from worker.providers.contract import ChatMessage, ChatRequest, Image, MessagePart
from worker.providers.conversation import (
    arguments_of,
    is_readable,
    normalize_messages,
    only_text,
    system_prompt,
)
from worker.providers.kept_reasoning import THINKING_TYPES

_VERSION: Final = {"anthropic-version": "2023-06-01"}
_BUDGET_TOKENS_MIN: Final = 1024
_GENERATION: Final = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:-(\d{1,2}))?(?!\d)")
_FIRST_ADAPTIVE: Final = (4, 6)
_SEARCH: Final = {
    "type": "web_search_20250305",
    "name": "web_search",
    "max_uses": MODEL_SEARCHES_MAX,
}
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}
_NOT_IN_AN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")


_encode = msgspec.json.Encoder().encode


class Anthropic:
    """The dialect of Anthropic's messages API."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the version of the API, and the header that carries the key."""
        return _VERSION | ({"x-api-key": key.reveal()} if key else {})

    def path(self, _model: ModelSettings) -> str:
        """Return where a request goes, below the base URL."""
        return "/messages"

    def body(self, request: ChatRequest) -> bytes:
        """Return the body of a request."""
        payload: dict[str, Any] = {
            "model": request.model.upstream,
            "max_tokens": request.max_tokens,
            "messages": _messages(request),
            "stream": True,
        }
        if request.so_far:
            payload["messages"].append({"role": "assistant", "content": request.so_far})
        prompt = system_prompt(request.messages)
        if prompt:
            payload["system"] = prompt
        tools = [_tool(tool) for tool in request.tools]
        if request.web_search:
            tools.append(_SEARCH)
        if tools:
            payload["tools"] = tools
        if request.tools and request.tool_choice.mode != "auto":
            payload["tool_choice"] = _tool_choice(request)
        if request.deep_think:
            payload |= _thinking(request, payload["messages"])
        if (request.sampling, request.form) != (DEFAULT_SAMPLING, FREE_TEXT):
            payload |= _answer_options(request, payload.get("output_config", {}))
        add_breakpoints(payload, request)
        return _encode(payload)

    def reader(self, request: ChatRequest) -> MessageReader:
        """Return what reads the answer to a request."""
        return PausableMessageReader(request) if request.web_search else MessageReader(request)


def _answer_options(request: ChatRequest, output_config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields for sampling, stop texts and form; the last stands in `output_config`."""
    sampling = request.sampling
    fields = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop_sequences": sampling.stop,
    }
    options: dict[str, Any] = {
        name: each for name, each in fields.items() if each not in (None, ())
    }
    if request.form.kind == "json_schema":
        form = {"type": "json_schema", "schema": request.form.schema}
        options["output_config"] = output_config | {"format": form}
    return options


class _CallIds:
    """The ids of calls as they are sent: in the allowed characters, and each for one call only.

    The ids of a conversation may come from other upstreams, which use some of them again.
    """

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._by_call: dict[str, str] = {}

    def of_call(self, call_id: str) -> str:
        """Return the id of a new call."""
        allowed = sent = _NOT_IN_AN_ID.sub("_", call_id)
        number = 2
        while sent in self._sent:
            sent = f"{allowed}_{number}"
            number += 1
        self._sent.add(sent)
        self._by_call[call_id] = sent
        return sent

    def of_result(self, call_id: str) -> str:
        """Return the id of the last call that has this one."""
        return self._by_call.get(call_id, _NOT_IN_AN_ID.sub("_", call_id))


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the conversation; messages of the same role that follow each other become one."""
    ids = _CallIds()
    return [
        {
            "role": role,
            "content": [
                block for message in group for block in _blocks(message, request.model, ids)
            ],
        }
        for role, group in groupby(normalize_messages(request.messages), _role)
    ]


def _role(message: ChatMessage) -> str:
    """Return the role of a message; tool results have the role of the user."""
    return "assistant" if message.role == "assistant" else "user"


def _blocks(message: ChatMessage, model: ModelSettings, ids: _CallIds) -> list[dict[str, Any]]:
    """Return the blocks of a message, none of which is blank."""
    text = only_text(message)
    if text is not None and message.role != "tool":
        return [{"type": "text", "text": text}]
    blocks = [block for part in message.parts for block in _block(part, model, ids)]
    if message.role != "tool":
        return blocks
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": ids.of_result(message.call_id)}
    if blocks:
        is_text = len(blocks) == 1 and blocks[0]["type"] == "text"
        result["content"] = blocks[0]["text"] if is_text else blocks
    if message.is_error:
        result["is_error"] = True
    return [result]


def _block(part: MessagePart, model: ModelSettings, ids: _CallIds) -> list[dict[str, Any]]:
    """Return the block of a part; none for an opaque part that the upstream cannot read."""
    match part:
        case TextPart(text):
            return [{"type": "text", "text": text}]
        case Image():
            return [_image(part)]
        case CallPart():
            named = {"id": ids.of_call(part.call_id), "name": part.tool}
            return [{"type": "tool_use", **named, "input": arguments_of(part)}]
        case OpaquePart():
            is_block = part.value.get("type") in THINKING_TYPES
            return [part.value] if is_block and is_readable(part, DIALECT, model) else []


def _image(image: Image) -> dict[str, Any]:
    content = b64encode(image.content).decode()
    source = {"type": "base64", "media_type": image.media_type, "data": content}
    return {"type": "image", "source": source}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    strict = {"strict": True} if tool.is_strict else {}
    return {
        "name": tool.name,
        **described,
        "input_schema": tool.parameters or _NO_PARAMETERS,
        **strict,
    }


def _tool_choice(request: ChatRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if choice.mode == "named":
        return {"type": "tool", "name": choice.name}
    return {"type": "any" if choice.mode == "required" else choice.mode}


def _option_by_name(upstream: str) -> ReasoningOption:
    named = _GENERATION.search(upstream)
    is_adaptive = named and (int(named[1]), int(named[2] or 0)) >= _FIRST_ADAPTIVE
    return "adaptive" if is_adaptive else "budget"


def _thinking(request: ChatRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields that request thinking; none if the model would refuse them."""
    if request.tools and request.tool_choice.mode in {"required", "named"}:
        return {}
    option = request.model.reasoning_option or _option_by_name(request.model.upstream)
    if option == "adaptive":
        # Without `display`, the thinking is not shown.
        thinking = {"type": "adaptive", "display": "summarized"}
        return {"thinking": thinking, "output_config": {"effort": request.model.reasoning_effort}}
    if option != "budget":
        return {}
    budget_tokens = request.max_tokens // 2
    if budget_tokens < _BUDGET_TOKENS_MIN or not _may_think_on(request, messages):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget_tokens}}


def _may_think_on(request: ChatRequest, messages: list[dict[str, Any]]) -> bool:
    """Tell whether the model has not called yet in this turn, or thought before it called."""
    if request.messages[-1].role != "tool":
        return True
    called = next(message for message in reversed(messages) if message["role"] == "assistant")
    return called["content"][0]["type"] in THINKING_TYPES
