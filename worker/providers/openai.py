"""Requests of chat completions: OpenAI and all compatible servers (DeepSeek, Groq, vLLM, ...).

Owns the body, path and headers of a request; `openai_answers` reads the answer. Pure.

Some fields depend on the model, and no upstream says which it accepts, so the catalogue does. If it
does not say how an answer is bounded, the model's name decides: OpenAI's own reasoning models (o1,
o3..., gpt-5 and later) refuse `max_tokens` and require `max_completion_tokens`, which many
compatible servers do not know.

A model that makes images or sounds is asked for them.

Web search is requested in one of two ways, and the catalogue says which: with `web_search_options`
(OpenAI's search models and compatible ones) or with the plugin `web` (OpenRouter). Other servers
have ways of their own (xAI, Groq and Mistral among them): their models must not be listed as
searching.
"""

import re
from base64 import b64encode
from typing import Any, Final

import msgspec

from shared.settings import ModelSettings, Secret
from worker.providers.contract import ChatMessage, ChatRequest, Image, Tool
from worker.providers.openai_answers import CompletionReader

_VOICE: Final = "alloy"
_SEARCH: Final[dict[str, dict[str, Any]]] = {
    "web_search_options": {"web_search_options": {}},
    "plugins": {"plugins": [{"id": "web", "max_results": 5}]},
}
_REASONS_BY_ITSELF: Final = re.compile(r"(^|/)(o[1-9]|gpt-([5-9]|\d\d))")


_encode = msgspec.json.Encoder().encode


class OpenAI:
    """The dialect of chat completions."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def path(self, _model: ModelSettings) -> str:
        """Return where a request goes, below the base URL."""
        return "/chat/completions"

    def body(self, request: ChatRequest) -> bytes:
        """Return the body of a request."""
        payload: dict[str, Any] = {
            "model": request.model.upstream,
            "messages": [_message(message) for message in request.messages],
            _limit(request.model): request.max_tokens,
            "stream": True,
        }
        if request.model.usage_option == "stream_options":
            payload["stream_options"] = {"include_usage": True}
        if request.tools:
            payload["tools"] = [_tool(tool) for tool in request.tools]
        if request.deep_think:
            payload |= _thinking(request.model)
        if request.model.makes_media:
            payload |= _modalities(request.model)
        if request.web_search:
            payload |= _SEARCH[request.model.search_option]
        return _encode(payload)

    def reader(self, request: ChatRequest) -> CompletionReader:
        """Return what reads the answer to a request."""
        return CompletionReader(request)


def _limit(model: ModelSettings) -> str:
    """Return the field that bounds an answer."""
    by_name = _REASONS_BY_ITSELF.search(model.upstream)
    return model.limit_option or ("max_completion_tokens" if by_name else "max_tokens")


def _thinking(model: ModelSettings) -> dict[str, Any]:
    """Return the fields that request reasoning; none if the model would refuse them."""
    match model.reasoning_option:
        case None | "effort":
            return {"reasoning_effort": model.reasoning_effort}
        case "enabled":
            return {"reasoning": {"enabled": True}}
        case _:
            return {}


def _message(message: ChatMessage) -> dict[str, Any]:
    payload: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        payload["tool_call_id"] = message.call_id
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        payload["content"] = [*map(_image, message.images), *text]
    if message.calls:
        payload["content"] = message.content or None
        payload["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.tool, "arguments": _encode(call.arguments).decode()},
            }
            for call in message.calls
        ]
    return payload


def _image(image: Image) -> dict[str, Any]:
    url = f"data:{image.media_type};base64,{b64encode(image.content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": msgspec.to_builtins(tool)}


def _modalities(model: ModelSettings) -> dict[str, Any]:
    """Return the fields that request media beside text."""
    if "audio_output" in model.capabilities:
        return {
            "modalities": ["text", "audio"],
            "audio": {"voice": _VOICE, "format": "pcm16"},
        }
    return {"modalities": ["image", "text"]}
