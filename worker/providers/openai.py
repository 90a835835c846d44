"""Chat completions, as OpenAI and all compatible speak it: DeepSeek, Groq, vLLM, llama.cpp...

Owns the words of the dialect: what a request says, and what the chunks of its answer mean. Pure.
A call of a tool comes in pieces and is told once, when the answer's end says that all have come.

Some words depend on the model, and no upstream says which it takes, so the catalogue does. Where it
does not say how an answer is bounded, the name decides: OpenAI's own models that reason (o1, o3...,
gpt-5 and later) refuse `max_tokens` and want its successor, which many compatible servers do not
know.

A model that makes pictures or sounds is asked for them: pictures come as data URLs (OpenRouter's
form), sound in pieces of samples, told once at the end, beside a transcript that counts as text.

Searching the web is asked for in one of two words, and the catalogue says which: with
`web_search_options` OpenAI's search models and those who follow them, with the plugin `web`
OpenRouter. Both cite by annotations, and count no searches. Other servers have words of their own
(xAI, Groq and Mistral among them): their models are not to be listed as searching.

Left out: refusals, pictures elsewhere, all choices but the first, and calls of the old form
(`function_call`), which is never offered.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

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
    Produced,
    Reasoning,
    Text,
    Tool,
    Used,
    believable,
)
from worker.providers.failures import InBandError
from worker.providers.media import Samples, decoded

_REASONS: Final[dict[str, EndReason]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}
_LAST_WORD: Final = b"[DONE]"
_VOICE: Final = "alloy"
_PICTURE: Final = re.compile(r"data:(image/[a-z0-9.+-]+);base64,")
_SEARCH: Final[dict[str, dict[str, Any]]] = {
    "web_search_options": {"web_search_options": {}},
    "plugins": {"plugins": [{"id": "web", "max_results": 5}]},
}
_REASONS_BY_ITSELF: Final = re.compile(r"(^|/)(o[1-9]|gpt-([5-9]|\d\d))")


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Piece(msgspec.Struct):
    """A piece of a call: its first has the id and the name."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Link(msgspec.Struct):
    url: str | None = None


class _Picture(msgspec.Struct):
    image_url: _Link | None = None


class _Sound(msgspec.Struct):
    """A piece of a sound, in base64, and of what is said in it."""

    data: str | None = None
    transcript: str | None = None


class _Delta(msgspec.Struct):
    """A step of the answer. Servers name what the model thinks the one way, the other, or both."""

    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_Piece] | None = None
    images: list[_Picture] | None = None
    audio: _Sound | None = None
    annotations: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    """What we read of a chunk; servers add much more."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_NO_FUNCTION: Final = _Function()
_decode = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


class OpenAI:
    """The dialect."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def path(self, _model: ModelSettings) -> str:
        """Return where a request goes, below the base URL."""
        return "/chat/completions"

    def body(self, request: ChatRequest) -> bytes:
        """Return what a request says."""
        said: dict[str, Any] = {
            "model": request.model.upstream,
            "messages": [_message(message) for message in request.messages],
            _limit(request.model): request.max_tokens,
            "stream": True,
        }
        if request.model.usage_option == "stream_options":
            said["stream_options"] = {"include_usage": True}
        if request.tools:
            said["tools"] = [_tool(tool) for tool in request.tools]
        if request.deep_think:
            said |= _thinking(request.model)
        if request.model.makes_media:
            said |= _modalities(request.model)
        if request.web_search:
            said |= _SEARCH[request.model.search_option]
        return _encode(said)

    def reader(self) -> "Chunks":
        """Return what reads one answer."""
        return Chunks()


def _limit(model: ModelSettings) -> str:
    """Return the field that bounds an answer."""
    by_name = _REASONS_BY_ITSELF.search(model.upstream)
    return model.limit_option or ("max_completion_tokens" if by_name else "max_tokens")


def _thinking(model: ModelSettings) -> dict[str, Any]:
    """Return how a model is asked to think; nothing where it would refuse to be asked."""
    match model.reasoning_option:
        case None | "effort":
            return {"reasoning_effort": model.reasoning_effort}
        case "enabled":
            return {"reasoning": {"enabled": True}}
        case _:
            return {}


def _message(message: ChatMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        said["tool_call_id"] = message.call_id
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        said["content"] = [*map(_image, message.images), *text]
    if message.calls:
        said["content"] = message.content or None
        said["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.tool, "arguments": _encode(call.arguments).decode()},
            }
            for call in message.calls
        ]
    return said


def _image(image: Image) -> dict[str, Any]:
    url = f"data:{image.media_type};base64,{b64encode(image.content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": msgspec.to_builtins(tool)}


def _modalities(model: ModelSettings) -> dict[str, Any]:
    """Return how a model is asked for what it makes beside text."""
    if "audio_output" in model.capabilities:
        return {
            "modalities": ["text", "audio"],
            "audio": {"voice": _VOICE, "format": "pcm16"},
        }
    return {"modalities": ["image", "text"]}


class Chunks:
    """What reads the chunks of one answer."""

    def __init__(self) -> None:
        self._samples = Samples()
        self._calls = Calls()
        self._citations = Citations()
        self._open: dict[int, OpenCall] = {}
        self._begun: list[OpenCall] = []
        self._has_ended = False

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of a chunk, or None for the last word. Raises InBandError."""
        if data == _LAST_WORD:
            return None
        chunk = _decode(data)
        if chunk.error is not None:
            raise InBandError(chunk.error)
        parts: list[Part] = []
        if chunk.choices:
            self._take(chunk.choices[0], parts)
        if chunk.usage is not None:
            used = _used(chunk.usage)
            if used is not None:
                parts.append(used)
        return parts

    def _take(self, choice: _Choice, parts: list[Part]) -> None:
        """Add what a choice says; what comes in one step was thought before it was said."""
        delta = choice.delta
        if delta is not None:
            thought = delta.reasoning_content or delta.reasoning
            # An odd form of a thought is no fault of the answer, and says nothing.
            if thought and isinstance(thought, str):
                parts.append(Reasoning(thought))
            if delta.content:
                parts.append(Text(delta.content))
            if delta.tool_calls:
                self._gather(delta.tool_calls)
            if delta.images or delta.audio is not None:
                self._show(delta, parts)
            if delta.annotations:
                parts += self._cited(delta.annotations)
        if choice.finish_reason:
            self._end(choice.finish_reason, parts)

    def _show(self, delta: _Delta, parts: list[Part]) -> None:
        """Add the pictures of a step, and what is said in a sound. Raises MsgspecError."""
        for picture in delta.images or ():
            url = (picture.image_url.url if picture.image_url is not None else None) or ""
            if known := _PICTURE.match(url):
                parts.append(Produced("image", known[1], decoded(url[known.end() :])))
        if delta.audio is not None:
            if delta.audio.transcript:
                parts.append(Text(delta.audio.transcript))
            if delta.audio.data:
                if self._has_ended:
                    raise msgspec.ValidationError("a sound goes on after the end")
                self._samples.grow(decoded(delta.audio.data))

    def _cited(self, annotations: object) -> Iterator[Part]:
        """Yield the pages that are told for the first time; an odd annotation says nothing."""
        for each in annotations if isinstance(annotations, list) else ():
            page = each.get("url_citation") if isinstance(each, dict) else None
            if isinstance(page, dict):
                yield from self._citations.take(page.get("url"), page.get("title"))

    def _gather(self, pieces: list[_Piece]) -> None:
        """Add to the calls. Raises TooLargeError, and ValidationError for what comes too late."""
        if self._has_ended:
            raise msgspec.ValidationError("a call goes on after the end")
        for piece in pieces:
            function = piece.function or _NO_FUNCTION
            call = self._call(piece, function.name)
            if function.arguments:
                call.grow(function.arguments.encode())

    def _call(self, piece: _Piece, tool: str | None) -> OpenCall:
        """Return the call that a piece is of.

        Some servers give every call the same index, or none: an id that is new begins a call.
        """
        index = piece.index if piece.index is not None else -1
        call = self._open.get(index)
        if call is None or (piece.id and call.call_id and piece.id != call.call_id):
            call = self._open[index] = self._calls.begin(piece.id, tool)
            self._begun.append(call)
        call.call_id = call.call_id or piece.id
        call.tool = call.tool or tool
        return call

    def _end(self, reason: str, parts: list[Part]) -> None:
        """Tell the calls, which are whole now, and the end. Raises MsgspecError if one is not."""
        told = _REASONS.get(reason, "other")
        parts += (call.whole() for call in self._begun)
        parts += self._samples.whole()
        # With some servers an answer that calls is one that stops like any other.
        if told == "stop" and self._calls.count:
            told = "tool_calls"
        self._begun.clear()
        self._has_ended = True
        parts.append(Ended(told))


def _used(usage: _Usage) -> Used | None:
    """Return what was used, if it can be believed; otherwise it is for us to estimate."""
    details = usage.completion_tokens_details
    reasoning = (details.reasoning_tokens if details is not None else None) or 0
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return believable(usage.prompt_tokens, usage.completion_tokens, reasoning)
