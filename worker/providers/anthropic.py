"""Messages, as Anthropic speaks it, and others who serve its API.

Owns the words of the dialect: what a request says. What its answer means is `anthropic_answers`' to
tell. Pure.
Thinking shares `max_tokens` with the answer. How it is asked for depends on the model; where the
catalogue does not say, its name decides: those since Claude 4.6 decide themselves how long they
think, all before, and models of other makers, are given half of `max_tokens`; where that is less
than the least that is allowed, they are not asked to think.

The signed thinking blocks of earlier turns are not sent back: between turns nobody needs them. A
model with a budget refuses a turn of its own that calls tools and does not begin with one, so
it is not asked to think on while the results of its calls are what it answers to.

Searching the web is a tool that the upstream runs by itself, in the version of 2025-03-05: the one
that every model since Claude 3.5 takes, and that needs no other tool beside it. An answer that is
paused in the middle goes on when its content so far is sent back as it came.
"""

import re
from base64 import b64encode
from itertools import groupby
from typing import Any, Final

import msgspec

from shared.routing.search_estimate import MODEL_SEARCHES_MAX
from shared.settings import ModelSettings, ReasoningOption, Secret
from worker.providers.anthropic_answers import MessageReader, PausableMessageReader
from worker.providers.contract import ChatMessage, ChatRequest, Image, Tool
from worker.providers.conversation import normalize_messages, system_prompt

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
        payload: dict[str, Any] = {
            "model": request.model.upstream,
            "max_tokens": request.max_tokens,
            "messages": [
                {
                    "role": role,
                    "content": [block for message in group for block in _blocks(message)],
                }
                for role, group in groupby(normalize_messages(request.messages), _role)
            ],
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
        if request.deep_think:
            payload |= _thinking(request)
        return _encode(payload)

    def reader(self, request: ChatRequest) -> MessageReader:
        """Return what reads the answer to a request."""
        return PausableMessageReader(request) if request.web_search else MessageReader(request)


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
