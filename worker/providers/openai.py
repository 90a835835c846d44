"""Requests of chat completions: OpenAI and all compatible servers (DeepSeek, Groq, vLLM, ...).

Owns the body, path and headers of a request; `openai_answers` reads the answer. Pure.

Some fields depend on the model, and no upstream says which it accepts, so the catalogue does. If it
does not say how an answer is bounded, the model's name decides: OpenAI's own reasoning models (o1,
o3..., gpt-5 and later) refuse `max_tokens` and require `max_completion_tokens`, which many
compatible servers do not know.

A conversation is sent in its order. OpenAI's own models know the role `developer`, and accept
arguments of a call that are no JSON; many compatible servers know neither (vLLM refuses such a
conversation for good), so they are sent `system`, and an object that holds the arguments. Results
of tools have no images here: those follow in a user's message after the last result. A failed
result says so in its text. Mistral accepts only ids of its own form, so it is sent digests of
others. What an upstream wants back of its reasoning (DeepSeek's `reasoning_content`, OpenRouter's
`reasoning_details`) is a field of the message.

A model that makes images or sounds is asked for them. OpenAI and DeepSeek refuse to answer with a
JSON object unless a message names JSON, so a system message does where none is.

Web search is requested in one of two ways, and the catalogue says which: with `web_search_options`
(OpenAI's search models and compatible ones) or with the plugin `web` (OpenRouter). Other servers
have ways of their own (xAI, Groq and Mistral among them): their models must not be listed as
searching.
"""

import hashlib
import re
from base64 import b64encode
from typing import Any, Final

import msgspec

from shared.settings import ModelSettings, Secret
from shared.wire.conversation import (
    DEFAULT_SAMPLING,
    FREE_TEXT,
    CallPart,
    OpaquePart,
    TextPart,
    ToolChoice,
    ToolDefinition,
)
from worker.providers.contract import ChatMessage, ChatRequest, Image
from worker.providers.conversation import arguments_of, is_readable, only_text
from worker.providers.kept_reasoning import REASONING_FIELDS
from worker.providers.openai_answers import DIALECT, CompletionReader

_VOICE: Final = "alloy"
_SEARCH: Final[dict[str, dict[str, Any]]] = {
    "web_search_options": {"web_search_options": {}},
    "plugins": {"plugins": [{"id": "web", "max_results": 5}]},
}
_REASONS_BY_ITSELF: Final = re.compile(r"(^|/)(o[1-9]|gpt-([5-9]|\d\d))")
# OpenAI's own models; gpt-oss is served by others.
_IS_OPENAIS: Final = re.compile(r"(^|/)(o[1-9]|gpt-\d|chatgpt-)")
_IS_MISTRALS: Final = re.compile(r"(^|/|-)([a-z]+stral|mixtral)-")
_MISTRALS_ID: Final = re.compile(r"[a-zA-Z0-9]{9}")
_RESULT_IMAGES: Final = "The images of the tool result `{}`:"
_FAILED: Final = "Error: "
_ASKS_FOR_JSON: Final = "Answer with one JSON object."


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
            "messages": _messages(request),
            _limit(request.model): request.max_tokens,
            "stream": True,
        }
        if request.model.usage_option == "stream_options":
            payload["stream_options"] = {"include_usage": True}
        if request.tools:
            payload["tools"] = [_tool(tool) for tool in request.tools]
            if request.tool_choice.mode != "auto":
                payload["tool_choice"] = _tool_choice(request.tool_choice)
        if request.deep_think:
            payload |= _thinking(request.model)
        if request.model.makes_media:
            payload |= _modalities(request.model)
        if request.web_search:
            payload |= _SEARCH[request.model.search_option]
        if (request.sampling, request.form) != (DEFAULT_SAMPLING, FREE_TEXT):
            payload |= _answer_options(request, payload["messages"])
        return _encode(payload)

    def reader(self, request: ChatRequest) -> CompletionReader:
        """Return what reads the answer to a request."""
        return CompletionReader(request)


def _answer_options(request: ChatRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields for sampling, stop texts and form, and name JSON where that is needed."""
    sampling, form = request.sampling, request.form
    fields = {"temperature": sampling.temperature, "top_p": sampling.top_p, "stop": sampling.stop}
    options: dict[str, Any] = {
        name: each for name, each in fields.items() if each not in (None, ())
    }
    if form.kind == "json_schema":
        schema = {"name": form.name, "schema": form.schema, "strict": form.is_strict}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.kind == "json_object":
        options["response_format"] = {"type": "json_object"}
        if not any("json" in message.text.lower() for message in request.messages):
            messages.insert(0, {"role": "system", "content": _ASKS_FOR_JSON})
    return options


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


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the conversation, the images of results after the last result of each message."""
    is_openais = bool(_IS_OPENAIS.search(request.model.upstream))
    sent: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for message in request.messages:
        if message.role == "tool":
            sent.append(_result(message, request.model))
            waiting += _images_of_result(message)
            continue
        if waiting:
            sent.append({"role": "user", "content": waiting})
            waiting = []
        is_unknown = message.role == "developer" and not is_openais
        text = only_text(message)
        if text is not None:
            sent.append({"role": "system" if is_unknown else message.role, "content": text})
        elif message.role == "assistant":
            sent.append(_assistant(message, request.model, is_openais=is_openais))
        else:
            role = "system" if is_unknown else message.role
            sent.append({"role": role, "content": _content(message)})
    if waiting:
        sent.append({"role": "user", "content": waiting})
    return sent


def _images_of_result(message: ChatMessage) -> list[dict[str, Any]]:
    """Return the images of a result, after a text that says whose they are."""
    images = [_image(image) for image in message.images]
    text = _RESULT_IMAGES.format(message.call_id)
    return [{"type": "text", "text": text}, *images] if images else []


def _content(message: ChatMessage) -> str | list[dict[str, Any]]:
    """Return text as one string, which every server reads, or a list in which images have a place.

    Where there are several texts, each begins a line.
    """
    if not message.images:
        return "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
    return [
        _image(part) if isinstance(part, Image) else {"type": "text", "text": part.text}
        for part in message.parts
        if isinstance(part, Image) or (isinstance(part, TextPart) and part.text)
    ]


def _result(message: ChatMessage, model: ModelSettings) -> dict[str, Any]:
    text = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
    content = _FAILED + text if message.is_error else text
    return {"role": "tool", "content": content, "tool_call_id": _id(message.call_id, model)}


def _assistant(message: ChatMessage, model: ModelSettings, *, is_openais: bool) -> dict[str, Any]:
    text, calls = message.text, message.calls
    payload: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text}
    if calls:
        payload["tool_calls"] = [
            {
                "id": _id(call.call_id, model),
                "type": "function",
                "function": {"name": call.tool, "arguments": _arguments(call, as_is=is_openais)},
            }
            for call in calls
        ]
    for part in message.parts:
        if isinstance(part, OpaquePart) and is_readable(part, DIALECT, model):
            payload |= {name: part.value[name] for name in REASONING_FIELDS if name in part.value}
    return payload


def _id(call_id: str, model: ModelSettings) -> str:
    """Return a call's id in a form that the upstream accepts; it may come from another one."""
    is_accepted = not _IS_MISTRALS.search(model.upstream) or _MISTRALS_ID.fullmatch(call_id)
    return call_id if is_accepted else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _arguments(call: CallPart, *, as_is: bool) -> str:
    """Return arguments as they were written, or as JSON where a server accepts nothing else."""
    found = call.object
    if found or (found is None and as_is):
        return call.arguments
    return _encode(arguments_of(call)).decode()


def _image(image: Image) -> dict[str, Any]:
    url = f"data:{image.media_type};base64,{b64encode(image.content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = tool.parameters
    if tool.is_strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _modalities(model: ModelSettings) -> dict[str, Any]:
    """Return the fields that request media beside text."""
    if "audio_output" in model.capabilities:
        return {
            "modalities": ["text", "audio"],
            "audio": {"voice": _VOICE, "format": "pcm16"},
        }
    return {"modalities": ["image", "text"]}
