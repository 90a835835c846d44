"""Requests of Google's generateContent (the Gemini API), streamed as server-sent events.

Owns the body, path and headers of a request; `gemini_answers` reads the answer. Pure.

Some fields depend on the model; if the catalogue does not say how, the model's name decides. Models
before Gemini 3 get a budget for thinking (half of `max_tokens`, which it shares with the answer),
later ones a level. Later ones also refuse a call of theirs in the conversation without the
signature that came with it; for a call from elsewhere the API's placeholder is sent. A text's
signature is sent in an empty part after it, as the API itself does in streams. Later ones take the
images of a result within it; for earlier ones they follow the results.

Instructions in the middle of a conversation become part of the system prompt. Arguments that are no
JSON object are sent in one.

A model that makes images or sounds is asked for them.

Web search is the tool `googleSearch`, which Google bills by the query since Gemini 3, and by the
prompt before. The number of queries is reported, so earlier models must not be listed as searching.
"""

import re
from base64 import b64encode
from itertools import groupby
from typing import Any, Final
from urllib.parse import quote

import msgspec

from shared.settings import ModelSettings, Secret
from shared.wire.conversation import (
    DEFAULT_SAMPLING,
    FREE_TEXT,
    CallPart,
    OpaquePart,
    TextPart,
    ToolDefinition,
)
from worker.providers.contract import ChatMessage, ChatRequest, Image, MessagePart
from worker.providers.conversation import (
    arguments_of,
    is_readable,
    normalize_messages,
    system_prompt,
)
from worker.providers.gemini_answers import DIALECT, SIGNATURE, SIGNS, CandidateReader

_BEFORE_3: Final = re.compile(r"gemini-[12]\b")
# The minimum and the maximum that every one of them allows.
_BUDGET_TOKENS_MIN: Final = 512
_BUDGET_TOKENS_MAX: Final = 24_576
_FOREIGN: Final = "skip_thought_signature_validator"
_RESULT_IMAGES: Final = "The images of the tool result `{}`:"


_encode = msgspec.json.Encoder().encode


class Gemini:
    """The dialect of generateContent."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"x-goog-api-key": key.reveal()} if key else {}

    def path(self, model: ModelSettings) -> str:
        """Return where a request for a model goes, below the base URL."""
        name = model.upstream if "/" in model.upstream else f"models/{model.upstream}"
        return f"/{quote(name)}:streamGenerateContent?alt=sse"

    def body(self, request: ChatRequest) -> bytes:
        """Return the body of a request."""
        limits: dict[str, Any] = {"maxOutputTokens": request.max_tokens}
        if request.deep_think and (thinking := _thinking(request)):
            limits["thinkingConfig"] = thinking
        if request.model.makes_media:
            limits["responseModalities"] = _modalities(request.model)
        if (request.sampling, request.form) != (DEFAULT_SAMPLING, FREE_TEXT):
            limits |= _answer_options(request)
        payload: dict[str, Any] = {"contents": _contents(request), "generationConfig": limits}
        prompt = system_prompt(request.messages)
        if prompt:
            payload["systemInstruction"] = {"parts": [{"text": prompt}]}
        if tools := _tools(request):
            payload["tools"] = tools
        if request.tools and (calling := _calling(request)):
            payload["toolConfig"] = {"functionCallingConfig": calling}
        return _encode(payload)

    def reader(self, request: ChatRequest) -> CandidateReader:
        """Return what reads the answer to a request."""
        return CandidateReader(request)


def _tools(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the caller's tools and the upstream's own search."""
    tools: list[dict[str, Any]] = []
    if request.tools:
        tools.append({"functionDeclarations": [_tool(tool) for tool in request.tools]})
    if request.web_search:
        tools.append({"googleSearch": {}})
    return tools


def _answer_options(request: ChatRequest) -> dict[str, Any]:
    """Return the fields for sampling, stop texts and form."""
    sampling, form = request.sampling, request.form
    fields = {
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "stopSequences": sampling.stop,
        "responseMimeType": None if form == FREE_TEXT else "application/json",
        "responseJsonSchema": form.schema if form.kind == "json_schema" else None,
    }
    return {name: each for name, each in fields.items() if each not in (None, ())}


def _contents(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the conversation; all tool results of a message are one entry of their own."""
    messages = normalize_messages(request.messages)
    tools: dict[str, str] = {}
    is_before_3 = bool(_BEFORE_3.search(request.model.upstream))
    contents: list[dict[str, Any]] = []
    for role, group in groupby(messages, lambda message: message.role):
        if role == "assistant":
            parts = [part for each in group for part in _said(each, request.model, tools)]
            _sign(parts, is_required=not is_before_3)
            contents.append({"role": "model", "parts": parts})
        elif role == "tool":
            contents += _results(list(group), tools, is_before_3=is_before_3)
        else:
            parts = [_part(part) for message in group for part in message.parts]
            contents.append({"role": "user", "parts": parts})
    return contents


def _said(
    message: ChatMessage, model: ModelSettings, tools: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the parts of an assistant's message, with the signatures that the model can read.

    Notes the tools that it calls, for their results: these have the names of their tools.
    """
    parts: list[dict[str, Any]] = []
    for part in message.parts:
        if not isinstance(part, OpaquePart):
            parts.append(_part(part))
            if isinstance(part, CallPart):
                tools[part.call_id] = part.tool
            continue
        signature = part.value.get(SIGNATURE)
        if not signature or not is_readable(part, DIALECT, model):
            continue
        if part.value.get(SIGNS) == "call" and parts and "functionCall" in parts[-1]:
            parts[-1][SIGNATURE] = signature
        else:
            parts.append({"text": "", SIGNATURE: signature})
    return parts


def _sign(parts: list[dict[str, Any]], *, is_required: bool) -> None:
    """Sign the first call of a message with the placeholder, if the model requires a signature."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None and is_required:
        first.setdefault(SIGNATURE, _FOREIGN)


def _results(
    messages: list[ChatMessage], tools: dict[str, str], *, is_before_3: bool
) -> list[dict[str, Any]]:
    """Return the results of calls as one entry, and their images in a second if need be."""
    results: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for message in messages:
        text = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
        result: dict[str, Any] = {
            "id": message.call_id,
            "name": tools.get(message.call_id, message.call_id),
            "response": {"error" if message.is_error else "result": text},
        }
        if message.images and not is_before_3:
            result["parts"] = [_image(image) for image in message.images]
        elif message.images:
            images.append({"text": _RESULT_IMAGES.format(message.call_id)})
            images += [_image(image) for image in message.images]
        results.append({"functionResponse": result})
    contents = [{"role": "user", "parts": results}]
    return [*contents, {"role": "user", "parts": images}] if images else contents


def _part(part: MessagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    match part:
        case Image():
            return _image(part)
        case CallPart():
            named = {"id": part.call_id, "name": part.tool}
            return {"functionCall": named | {"args": arguments_of(part)}}
        case OpaquePart():
            raise AssertionError("only an assistant has opaque parts")


def _image(image: Image) -> dict[str, Any]:
    content = b64encode(image.content).decode()
    return {"inlineData": {"mimeType": image.media_type, "data": content}}


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    # The API asks for a description.
    declared = {"name": tool.name, "description": tool.description or tool.name}
    return declared | ({"parametersJsonSchema": tool.parameters} if tool.parameters else {})


def _calling(request: ChatRequest) -> dict[str, Any]:
    """Return how the model may call tools; nothing where it is free to decide."""
    match request.tool_choice.mode:
        case "none":
            return {"mode": "NONE"}
        case "required":
            return {"mode": "ANY"}
        case "named":
            return {"mode": "ANY", "allowedFunctionNames": [request.tool_choice.name]}
        case "auto":
            # Calls are held to their schemas for all tools or for none.
            is_strict = any(tool.is_strict for tool in request.tools)
            return {"mode": "VALIDATED"} if is_strict else {}


def _thinking(request: ChatRequest) -> dict[str, Any]:
    """Return the fields that request thinking, and that it is shown."""
    by_name = "budget" if _BEFORE_3.search(request.model.upstream) else "level"
    option = request.model.reasoning_option or by_name
    if option == "level":
        return {"includeThoughts": True, "thinkingLevel": request.model.reasoning_effort}
    if option != "budget":
        return {}
    budget_tokens = min(request.max_tokens // 2, _BUDGET_TOKENS_MAX)
    if budget_tokens < _BUDGET_TOKENS_MIN:
        return {"includeThoughts": True}
    return {"includeThoughts": True, "thinkingBudget": budget_tokens}


def _modalities(model: ModelSettings) -> list[str]:
    """Return the modalities of an answer; a model that speaks does nothing else."""
    return ["TEXT", "IMAGE"] if "image_output" in model.capabilities else ["AUDIO"]
