"""Requests of Google's generateContent (the Gemini API), streamed as server-sent events.

Owns the body, path and headers of a request; `gemini_answers` reads the answer. Pure.

Some fields depend on the model; if the catalogue does not say how, the model's name decides. Models
before Gemini 3 get a budget for thinking (half of `max_tokens`, which it shares with the answer),
later ones a level. Later ones also refuse a call of theirs in the conversation without the
signature that came with it; signatures are not kept, so the API's placeholder for calls from
elsewhere is sent.

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
from worker.providers.contract import ChatMessage, ChatRequest, Image, Tool
from worker.providers.conversation import normalize_messages, system_prompt
from worker.providers.gemini_answers import CandidateReader

_BEFORE_3: Final = re.compile(r"gemini-[12]\b")
# The minimum and the maximum that every one of them allows.
_BUDGET_TOKENS_MIN: Final = 512
_BUDGET_TOKENS_MAX: Final = 24_576
_FOREIGN: Final = "skip_thought_signature_validator"


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
        payload: dict[str, Any] = {"contents": _contents(request), "generationConfig": limits}
        prompt = system_prompt(request.messages)
        if prompt:
            payload["systemInstruction"] = {"parts": [{"text": prompt}]}
        tools: list[dict[str, Any]] = []
        if request.tools:
            tools.append({"functionDeclarations": [_tool(tool) for tool in request.tools]})
        if request.web_search:
            tools.append({"googleSearch": {}})
        if tools:
            payload["tools"] = tools
        return _encode(payload)

    def reader(self, request: ChatRequest) -> CandidateReader:
        """Return what reads the answer to a request."""
        return CandidateReader(request)


def _contents(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the conversation; all tool results of a turn are one entry of their own."""
    messages = normalize_messages(request.messages)
    tools = {call.call_id: call.tool for message in messages for call in message.calls}
    is_signed = not _BEFORE_3.search(request.model.upstream)
    contents = []
    for role, group in groupby(messages, lambda message: message.role):
        parts = [part for message in group for part in _parts(message, tools)]
        calls = [part for part in parts if "functionCall" in part]
        if calls and is_signed:
            calls[0]["thoughtSignature"] = _FOREIGN
        contents.append({"role": "model" if role == "assistant" else "user", "parts": parts})
    return contents


def _parts(message: ChatMessage, tools: dict[str, str]) -> list[dict[str, Any]]:
    """Return the parts of a message, none of which is blank."""
    if message.role == "tool":
        tool = tools.get(message.call_id, message.call_id)
        result = {"result": message.content}
        return [{"functionResponse": {"id": message.call_id, "name": tool, "response": result}}]
    parts = [_image(image) for image in message.images]
    if message.content.strip():
        parts.append({"text": message.content})
    for call in message.calls:
        named = {"id": call.call_id, "name": call.tool}
        parts.append({"functionCall": named | {"args": call.arguments}})
    return parts


def _image(image: Image) -> dict[str, Any]:
    content = b64encode(image.content).decode()
    return {"inlineData": {"mimeType": image.media_type, "data": content}}


def _tool(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "parametersJsonSchema": tool.parameters,
    }


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
