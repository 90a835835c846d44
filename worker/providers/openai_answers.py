"""Reads the chunks of chat completions, from OpenAI and all compatible servers.

Owns the reading of chunks, and of a whole completion if a server sends one instead: its choice has
a `message` in place of the `delta`. A tool call arrives in pieces and is returned once, at the end.
Where tools were offered, reasoning that the upstream wants back with its calls is returned before
them, as an opaque part. Pure.

Images come as data URLs (OpenRouter's form). A sound comes in pieces of samples, returned as one at
the end, beside a transcript that counts as text. Pages are cited by annotations; searches are not
counted. Mistral's reasoning models send content as a list of thoughts and texts.

The end is the chunk with a known finish reason. If the reason is unknown, or missing although usage
was counted, `[DONE]` is the end.

Left out: images elsewhere, all choices but the first, and calls of the old form (`function_call`),
which is never offered.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from shared.wire.message import FinishReason
from worker.providers.citations import Citations
from worker.providers.contract import (
    ChatRequest,
    Ended,
    GeneratedMedia,
    Part,
    Reasoning,
    ReportedUsage,
    Text,
    plausible_usage,
)
from worker.providers.failures import NO_ERROR, InBandError
from worker.providers.finish_reasons import read_finish_reason
from worker.providers.kept_reasoning import KeptReasoning
from worker.providers.media import AudioSamples, decode_base64
from worker.providers.tolerant_json import TolerantDecoder, loads
from worker.providers.tool_calls import PartialToolCall, ToolCalls

DIALECT: Final = "openai"
_LAST_WORD: Final = b"[DONE]"
_LAST_WORDS: Final = frozenset({b"[DONE]", b"DONE"})
_PICTURE: Final = re.compile(r"data:(image/[a-z0-9.+-]+);base64,")
_TEXT_TYPES: Final = frozenset({"text", "output_text", "input_text", None})
_THOUGHT_TYPES: Final = frozenset({"thinking", "reasoning", "reasoning_text"})
# Fields of an error body that has no `error` field.
_ERROR_FIELDS: Final = frozenset({"message", "detail", "code", "msg", "errors", "error_msg"})


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Piece(msgspec.Struct):
    """A piece of a call: the first has the id and the name."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Link(msgspec.Struct):
    url: str | None = None


class _Picture(msgspec.Struct):
    image_url: _Link | None = None


class _Sound(msgspec.Struct):
    """A piece of a sound, in base64, and of its transcript."""

    data: str | None = None
    transcript: str | None = None


class _Delta(msgspec.Struct):
    """A piece of the answer. Reasoning is in either of two fields, or in both."""

    content: str | list[Any] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: str | None = None
    tool_calls: list[_Piece] | None = None
    images: list[_Picture] | None = None
    audio: _Sound | None = None
    annotations: Any = None


class _Details(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Cache(msgspec.Struct):
    """Parts of the prompt's tokens: read from a cache; written to one, under either name."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Tokens. Beside the details, DeepSeek, Moonshot and LiteLLM have fields of their own."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_tokens_details: _Cache | None = None
    completion_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None
    error: Any = None
    usage: _Usage | None = None


class _Chunk(msgspec.Struct):
    """The fields of a chunk that are read; servers add many more."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_NO_FUNCTION: Final = _Function()
_NO_CACHE: Final = _Cache()
_decoder: Final = msgspec.json.Decoder(_Chunk)
_decode = _decoder.decode
_encode = msgspec.json.Encoder().encode


class CompletionReader:
    """Reads the chunks of one answer."""

    def __init__(self, request: ChatRequest) -> None:
        self.has_ended = False
        self._request = request
        self._tolerant_decoder = TolerantDecoder(_Chunk, _decoder)
        self._samples = AudioSamples()
        self._tool_calls = ToolCalls()
        self._citations = Citations()
        self._open: dict[int, PartialToolCall] = {}
        self._begun: list[PartialToolCall] = []
        self._kept_reasoning = KeptReasoning()
        self._read_delta = self._step_and_keep if request.tools else self._step
        self._has_text = False
        self._is_refused = False
        # Signs that the answer is complete, if `[DONE]` follows.
        self._has_reason = False
        self._is_counted = False
        self._is_over = False

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of a chunk, or None for `[DONE]`. Raises InBandError."""
        try:
            chunk = _decode(data)
        except (msgspec.MsgspecError, RecursionError):
            if data == _LAST_WORD or data.strip(b" \t\n\"'").upper() in _LAST_WORDS:
                self._is_over = True
                return None
            odd = self._tolerant_decoder.decode(data)
            if odd is None:
                return ()
            chunk = odd
        if chunk.error is not None and chunk.error not in NO_ERROR:
            raise InBandError(chunk.error)
        parts: list[Part] = []
        if chunk.choices:
            self._take(chunk.choices[0], parts)
        elif chunk.choices is None and chunk.usage is None:
            _check_is_no_error(data)
        if chunk.usage is not None:
            parts += self._count(chunk.usage)
        return parts

    def finish(self) -> Sequence[Part]:
        """Return the end of the answer, if only the end of the body shows it."""
        is_whole = self._has_reason or (self._is_over and self._is_counted and self._has_text)
        parts: list[Part] = []
        if is_whole and not self.has_ended:
            self._end("stop", parts)
        return parts

    def _take(self, choice: _Choice, parts: list[Part]) -> None:
        """Add the parts of a choice."""
        if choice.delta is not None:
            self._read_delta(choice.delta, parts)
        if choice.message is not None and not self._has_text:
            for index, piece in enumerate(choice.message.tool_calls or ()):
                piece.index = index
            self._read_delta(choice.message, parts)
        if choice.error is not None and choice.error not in NO_ERROR and not self.has_ended:
            raise InBandError(choice.error)
        if choice.usage is not None:
            parts += self._count(choice.usage)
        if choice.finish_reason and not self.has_ended:
            self._end_for(choice.finish_reason, parts)

    def _step(self, delta: _Delta, parts: list[Part]) -> None:
        """Add the parts of a delta; its reasoning comes before its text."""
        content = delta.content
        thought = delta.reasoning_content or delta.reasoning
        # Reasoning in an unknown form is ignored: it does not harm the answer.
        if thought and isinstance(thought, str):
            parts.append(Reasoning(thought))
        if content:
            if type(content) is str:
                self._has_text = True
                parts.append(Text(content))
            else:
                self._read_list(content, parts)
        if delta.refusal:
            self._is_refused = True
        if delta.tool_calls:
            self._gather(delta.tool_calls)
        if delta.images or delta.audio is not None:
            self._show(delta, parts)
        if delta.annotations:
            parts += self._cited(delta.annotations)

    def _step_and_keep(self, delta: _Delta, parts: list[Part]) -> None:
        """Add the parts of a delta, and keep the reasoning that is to be sent back."""
        self._kept_reasoning.add(delta.reasoning_content, delta.reasoning_details)
        self._step(delta, parts)

    def _read_list(self, content: Any, parts: list[Part]) -> None:  # noqa: ANN401  a list, of anything
        """Add the texts, thoughts and refusals of a list of content; ignore anything else."""
        for item in content:
            reported = item.get("type") if isinstance(item, dict) else None
            kind = reported if isinstance(reported, str) else None
            if kind in _THOUGHT_TYPES:
                if thought := _text_in(item):
                    parts.append(Reasoning(thought))
            elif kind == "refusal":
                self._is_refused = True
            elif kind in _TEXT_TYPES and (text := _text_in(item)):
                self._has_text = True
                parts.append(Text(text))

    def _show(self, delta: _Delta, parts: list[Part]) -> None:
        """Add the images and the sound of a delta. Raises MsgspecError."""
        makes_media = self._request.model.makes_media
        for picture in delta.images or ():
            url = (picture.image_url.url if picture.image_url is not None else None) or ""
            if known := _PICTURE.match(url):
                content = decode_base64(url[known.end() :], is_needed=makes_media)
                if content is not None:
                    parts.append(GeneratedMedia("image", known[1], content))
        if delta.audio is not None:
            if delta.audio.transcript:
                self._has_text = True
                parts.append(Text(delta.audio.transcript))
            if delta.audio.data and not self.has_ended:
                samples = decode_base64(delta.audio.data, is_needed=makes_media)
                self._samples.add_piece(samples or b"")

    def _cited(self, annotations: object) -> Iterator[Part]:
        """Yield the pages that are cited for the first time; malformed ones are ignored."""
        for each in annotations if isinstance(annotations, list) else ():
            page = each.get("url_citation") if isinstance(each, dict) else None
            if isinstance(page, dict):
                yield from self._citations.take(page.get("url"), page.get("title"))

    def _gather(self, pieces: list[_Piece]) -> None:
        """Add pieces to the calls; those after the end are ignored. Raises TooLargeError."""
        for piece in pieces if not self.has_ended else ():
            function = piece.function or _NO_FUNCTION
            call = self._call(piece, function.name)
            received = function.arguments
            if received:
                call.add_piece(
                    received.encode() if isinstance(received, str) else _encode(received)
                )

    def _call(self, piece: _Piece, tool: str | None) -> PartialToolCall:
        """Return the call that a piece belongs to.

        Some servers give every call the same index, or none: a new id begins a new call.
        """
        index = piece.index if piece.index is not None else -1
        call = self._open.get(index)
        if call is None or (piece.id and call.call_id and piece.id != call.call_id):
            call = self._open[index] = self._tool_calls.begin(piece.id, tool)
            self._begun.append(call)
        call.call_id = call.call_id or piece.id
        call.tool = call.tool or tool
        return call

    def _end_for(self, reported: object, parts: list[Part]) -> None:
        """Read a finish reason; it may mean "not ended". Raises AnswerFailedError."""
        reason = read_finish_reason(reported)
        if reason == "unknown":
            self._has_reason = True
        elif reason is not None:
            self._end(reason, parts)

    def _end(self, reason: FinishReason, parts: list[Part]) -> None:
        """Add the calls, complete now, and the end. Raises MsgspecError if a call is not."""
        is_needed = bool(self._request.tools) or not self._has_text
        calls = [call.complete(is_needed=is_needed) for call in self._begun]
        if any(calls):
            parts += self._kept_reasoning.parts(DIALECT, self._request.model.provider)
        parts += (call for call in calls if call is not None)
        parts += self._samples.complete()
        if reason == "stop" and self._is_refused:
            reason = "content_filter"
        # Some servers report "stop" for an answer that calls tools, too.
        elif reason == "stop" and self._tool_calls.count:
            reason = "tool_calls"
        self._begun.clear()
        parts.append(Ended(reason))
        self.has_ended = True

    def _count(self, usage: _Usage) -> Sequence[ReportedUsage]:
        used = _used(usage)
        self._is_counted = self._is_counted or (used is not None and used.output_tokens > 0)
        return (used,) if used is not None else ()


def _used(usage: _Usage) -> ReportedUsage | None:
    """Return the usage, if it is plausible.

    xAI counts reasoning beside the completion, all others within it: that shows in the total, or in
    a completion with fewer tokens than the reasoning. The total also shows where a gateway counts
    cached tokens beside the prompt, and not within it.
    """
    details = usage.completion_tokens_details
    thought = (details.reasoning_tokens if details is not None else None) or 0
    asked, answered = usage.prompt_tokens, usage.completion_tokens
    if asked is None or answered is None:
        return None
    if thought > answered or (thought and usage.total_tokens == asked + answered + thought):
        answered += thought
    cached, written = _cache_tokens(usage)
    in_cache = cached + written
    if in_cache and usage.total_tokens == asked + in_cache + answered:
        asked += in_cache
    return plausible_usage(asked, answered, thought, cached=cached, written=written)


def _cache_tokens(usage: _Usage) -> tuple[int, int]:
    """Return the tokens read from a cache and those written to one; a server may say it twice."""
    details = usage.prompt_tokens_details or _NO_CACHE
    read = (
        *(details.cached_tokens, usage.prompt_cache_hit_tokens),
        *(usage.cached_tokens, usage.cache_read_input_tokens),
    )
    written = (
        *(details.cache_write_tokens, details.cache_creation_tokens),
        usage.cache_creation_input_tokens,
    )
    return max(count or 0 for count in read), max(count or 0 for count in written)


def _text_in(item: Any) -> str:  # noqa: ANN401  an item of a list of content
    """Return the text of an item: it is a text, has one in a field, or has a list of items."""
    if isinstance(item, str):
        return item
    if isinstance(item, list):
        return "".join(map(_text_in, item))
    if not isinstance(item, dict):
        return ""
    names = ("text", "thinking", "reasoning", "content", "value")
    return next((text for name in names if (text := _text_in(item.get(name)))), "")


def _check_is_no_error(data: bytes) -> None:
    """Raise InBandError for errors without an `error` field: vLLM's, MiniMax', bare messages."""
    received = loads(data)
    if not isinstance(received, dict) or received.get("choices"):
        return
    status = received.get("base_resp")
    if isinstance(status, dict) and status.get("status_code"):
        raise InBandError({"code": status["status_code"], "message": status.get("status_msg")})
    if received.get("object") == "error" or not _ERROR_FIELDS.isdisjoint(received):
        raise InBandError(received)
