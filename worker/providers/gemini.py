"""generateContent, as Google's Gemini API speaks it, streamed as events.

Owns the words of the dialect: what a request says, and what the chunks of its answer mean. Pure.
There is no last word: an answer has ended when its stream has, and is whole when it said why.
A call of a tool comes whole.

Some words depend on the model; where the catalogue does not say how, its name decides: those before
Gemini 3 are given a budget for thinking (half of `max_tokens`, which it shares with the answer),
later ones a level. Later ones also refuse a call of theirs in the conversation without the
signature that came with it; it is not kept, and the word that the API has for calls from elsewhere
is sent in its place.

A model that makes pictures or sounds is asked for them, and each comes whole but for bare samples,
which come in pieces and are told as one sound at the end.

Searching the web is the tool `googleSearch`, which later models bill by the query and those before
Gemini 3 by the prompt: what is told as used is the number of queries, so the earlier ones are not
to be listed as searching.

Left out of the answer: media elsewhere (`fileData`) and those of thoughts, code that the upstream
runs by itself, signatures, citations of other than pages, and all candidates but the first.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final
from urllib.parse import quote

import msgspec

from shared.settings import ModelSettings, Secret
from shared.wire.message import MediaKind
from worker.providers.calls import Calls
from worker.providers.citations import Citations
from worker.providers.contract import (
    ChatMessage,
    ChatRequest,
    Ended,
    EndReason,
    Image,
    Part,
    Produced,
    Reasoning,
    Text,
    Tool,
    Used,
    believable,
)
from worker.providers.conversation import spoken, system_prompt
from worker.providers.failures import InBandError
from worker.providers.media import Samples, decoded

_FORBIDDEN: Final = (
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_REASONS: Final[dict[str, EndReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(_FORBIDDEN, "content_filter"),
}
_BEFORE_3: Final = re.compile(r"gemini-[12]\b")
# The least and the most that every one of them allows.
_BUDGET_TOKENS_MIN: Final = 512
_BUDGET_TOKENS_MAX: Final = 24_576
_SAMPLES: Final = frozenset({"audio/l16", "audio/pcm"})
_KINDS: Final[dict[str, MediaKind]] = {"image": "image", "audio": "audio"}
_RATE: Final = re.compile(r"rate=([0-9]{4,6})")
_FOREIGN: Final = "skip_thought_signature_validator"


class _Call(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()


class _Blob(msgspec.Struct, rename="camel"):
    """A picture or a sound, in base64."""

    mime_type: str | None = None
    data: str | None = None


class _Part(msgspec.Struct, rename="camel"):
    """A step of the answer: a text, a call, a picture or a sound."""

    text: str | None = None
    thought: bool | None = None
    function_call: _Call | None = None
    inline_data: _Blob | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    grounding_metadata: Any = None


class _Usage(msgspec.Struct, rename="camel"):
    """Tokens so far; what is zero is not said."""

    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Chunk(msgspec.Struct, rename="camel"):
    """What we read of a chunk."""

    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


class Gemini:
    """The dialect."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"x-goog-api-key": key.reveal()} if key else {}

    def path(self, model: ModelSettings) -> str:
        """Return where a request for a model goes, below the base URL."""
        name = model.upstream if "/" in model.upstream else f"models/{model.upstream}"
        return f"/{quote(name)}:streamGenerateContent?alt=sse"

    def body(self, request: ChatRequest) -> bytes:
        """Return what a request says."""
        limits: dict[str, Any] = {"maxOutputTokens": request.max_tokens}
        if request.deep_think and (thinking := _thinking(request)):
            limits["thinkingConfig"] = thinking
        if request.model.makes_media:
            limits["responseModalities"] = _modalities(request.model)
        said: dict[str, Any] = {"contents": _contents(request), "generationConfig": limits}
        prompt = system_prompt(request.messages)
        if prompt:
            said["systemInstruction"] = {"parts": [{"text": prompt}]}
        tools: list[dict[str, Any]] = []
        if request.tools:
            tools.append({"functionDeclarations": [_tool(tool) for tool in request.tools]})
        if request.web_search:
            tools.append({"googleSearch": {}})
        if tools:
            said["tools"] = tools
        return _encode(said)

    def reader(self) -> "Chunks":
        """Return what reads one answer."""
        return Chunks()


def _contents(request: ChatRequest) -> list[dict[str, Any]]:
    """Return the conversation; results of tools stand for themselves, all those of a turn."""
    messages = spoken(request.messages)
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
    """Return what a message says, as parts, none of which is blank."""
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
    """Return how a model is asked to think, and to show it."""
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
    """Return what a model answers with; those that speak do nothing else."""
    return ["TEXT", "IMAGE"] if "image_output" in model.capabilities else ["AUDIO"]


class Chunks:
    """What reads the chunks of one answer."""

    def __init__(self) -> None:
        self._calls = Calls()
        self._samples = Samples()
        self._citations = Citations()
        self._searches = 0
        self._has_ended = False
        self._usage: _Usage | None = None

    def read(self, data: bytes) -> Sequence[Part]:
        """Return the parts of a chunk. Raises InBandError."""
        chunk = _decode(data)
        if chunk.error is not None:
            raise InBandError(chunk.error)
        parts: list[Part] = []
        if chunk.candidates:
            self._take(chunk.candidates[0], parts)
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self._has_ended = True
            parts.append(Ended("content_filter"))
        if chunk.usage_metadata is not None:
            self._usage = chunk.usage_metadata
        if self._has_ended and self._usage is not None:
            parts += _used(self._usage, self._searches)
            self._usage = None
        return parts

    def _take(self, candidate: _Candidate, parts: list[Part]) -> None:
        """Add what a candidate says. Raises MsgspecError, TooLargeError."""
        said = candidate.content.parts if candidate.content is not None else None
        for part in said or ():
            if part.text:
                parts.append(Reasoning(part.text) if part.thought else Text(part.text))
            if part.function_call is not None:
                parts.append(self._whole(part.function_call))
            if part.inline_data is not None and not part.thought:
                parts += self._produced(part.inline_data)
        if isinstance(candidate.grounding_metadata, dict):
            parts += self._cited(candidate.grounding_metadata)
        reason = candidate.finish_reason
        if reason:
            told = _REASONS.get(reason, "other")
            parts += self._samples.whole()
            # An answer that calls is one that stops like any other.
            parts.append(Ended("tool_calls" if told == "stop" and self._calls.count else told))
            self._has_ended = True

    def _produced(self, blob: _Blob) -> Sequence[Produced]:
        """Return a picture or a sound, unless it is a piece of one or neither."""
        # Bare samples say how many there are a second: `audio/L16;codec=pcm;rate=24000`.
        media_type, *more = (word.strip() for word in (blob.mime_type or "").lower().split(";"))
        kind = _KINDS.get(media_type.partition("/")[0])
        if kind is None or not blob.data:
            return ()
        content = decoded(blob.data)
        if media_type not in _SAMPLES:
            return (Produced(kind, media_type, content),)
        rates = [int(found[1]) for word in more if (found := _RATE.fullmatch(word))]
        self._samples.grow(content, rates[0] if rates else None)
        return ()

    def _cited(self, grounding: dict[str, Any]) -> Iterator[Part]:
        """Yield the pages that are told for the first time; what is odd says nothing."""
        queries, grounds = grounding.get("webSearchQueries"), grounding.get("groundingChunks")
        if isinstance(queries, list):
            # Every chunk that tells them tells all there were so far.
            self._searches = max(self._searches, len(queries))
        for ground in grounds if isinstance(grounds, list) else ():
            page = ground.get("web") if isinstance(ground, dict) else None
            if isinstance(page, dict):
                yield from self._citations.take(page.get("uri"), page.get("title"))

    def _whole(self, said: _Call) -> Part:
        call = self._calls.begin(said.id, said.name)
        call.grow(bytes(said.args))
        return call.whole()


def _used(usage: _Usage, searches: int) -> Sequence[Used]:
    """Return what was used, if it can be believed; what was thought is output, too."""
    if usage.prompt_token_count is None:
        return ()
    thoughts = usage.thoughts_token_count or 0
    answered = (usage.candidates_token_count or 0) + thoughts
    used = believable(usage.prompt_token_count, answered, thoughts, searches)
    return (used,) if used is not None else ()
