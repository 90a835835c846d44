"""Reads the chunks of Google's generateContent (the Gemini API).

Owns the reading of chunks; a whole response, or an array of chunks, is read in the same way. Pure.
There is no last event: an answer ends with its stream, and is complete if it gave a finish reason.
A tool call arrives whole.

Images and sounds arrive whole, except raw samples, which come in pieces and become one sound at the
end. Usage counts are for the answer so far; prompts of tools that the upstream runs by itself are
counted beside the prompt, thoughts beside the answer.

Where tools were offered, the signature of a call or of a text is returned as an opaque part after
it.

Left out of the answer: media elsewhere (`fileData`) and within thoughts, code that the upstream
runs by itself, signatures of thoughts and media, citations other than of pages, and all candidates
but the first.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from shared.wire.conversation import OpaquePart
from shared.wire.message import FinishReason, MediaKind
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
from worker.providers.media import AudioSamples, decode_base64
from worker.providers.tolerant_json import TolerantDecoder, loads
from worker.providers.tool_calls import ToolCalls

DIALECT: Final = "gemini"
SIGNATURE: Final = "thoughtSignature"
# Beside a signature: what it signs, the call or the text before it.
SIGNS: Final = "signs"
_SAMPLES: Final = frozenset({"audio/l16", "audio/pcm"})
_KINDS: Final[dict[str, MediaKind]] = {"image": "image", "audio": "audio"}
_RATE: Final = re.compile(r"rate=([0-9]{4,6})")


class _FunctionCall(msgspec.Struct):
    id: str | None = None
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()


class _Blob(msgspec.Struct, rename="camel"):
    """An image or a sound, in base64."""

    mime_type: str | None = None
    data: str | None = None


class _Part(msgspec.Struct, rename="camel"):
    """A piece of the answer: a text, a call, an image or a sound."""

    text: str | None = None
    thought: bool | None = None
    function_call: _FunctionCall | None = None
    inline_data: _Blob | None = None
    thought_signature: str | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: Any = None
    grounding_metadata: Any = None


class _Usage(msgspec.Struct, rename="camel"):
    """Tokens so far; a count of zero is left out."""

    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: Any = None


class _Chunk(msgspec.Struct, rename="camel"):
    """The fields of a chunk that are read."""

    candidates: list[_Candidate] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _Feedback | None = None
    error: Any = None


_decoder: Final = msgspec.json.Decoder(_Chunk)
_decode = _decoder.decode


class CandidateReader:
    """Reads the chunks of one answer."""

    def __init__(self, request: ChatRequest) -> None:
        self.has_ended = False
        self._request = request
        self._tolerant_decoder = TolerantDecoder(_Chunk, _decoder)
        self._tool_calls = ToolCalls()
        self._samples = AudioSamples()
        self._citations = Citations()
        self._searches = 0
        self._has_text = False
        self._has_reason = False
        self._usage: _Usage | None = None

    def read(self, data: bytes) -> Sequence[Part]:
        """Return the parts of a chunk. Raises InBandError."""
        try:
            chunk = _decode(data)
        except (msgspec.MsgspecError, RecursionError):
            odd = self._tolerant_decoder.decode(data)
            if odd is None:
                return ()
            chunk = odd
        if chunk.error is not None and chunk.error not in NO_ERROR:
            raise InBandError(chunk.error)
        parts: list[Part] = []
        if chunk.candidates:
            self._take(chunk.candidates[0], parts)
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self._end("content_filter", parts)
        if chunk.usage_metadata is not None:
            self._usage = chunk.usage_metadata
        if self.has_ended and self._usage is not None:
            parts += self._used()
        return parts

    def finish(self) -> Sequence[Part]:
        """Return the end of the answer, if only the end of the body shows it."""
        parts: list[Part] = []
        if self._has_reason and not self.has_ended:
            self._end("stop", parts)
            parts += self._used() if self._usage is not None else ()
        return parts

    def _take(self, candidate: _Candidate, parts: list[Part]) -> None:
        """Add the parts of a candidate. Raises MsgspecError, TooLargeError."""
        received = candidate.content.parts if candidate.content is not None else None
        for part in received or ():
            if part.text and not part.thought:
                self._has_text = True
                parts.append(Text(part.text))
            if (
                part.thought
                or part.function_call is not None
                or part.inline_data is not None
                or part.thought_signature
            ):
                self._take_rarer(part, parts)
        if isinstance(candidate.grounding_metadata, dict):
            parts += self._cited(candidate.grounding_metadata)
        if candidate.finish_reason and not self.has_ended:
            reason = read_finish_reason(candidate.finish_reason)
            if reason == "unknown":
                self._has_reason = True
            elif reason is not None:
                self._end(reason, parts)

    def _take_rarer(self, part: _Part, parts: list[Part]) -> None:
        """Add what a part has beside text of the answer."""
        if part.text and part.thought:
            parts.append(Reasoning(part.text))
        if part.function_call is not None:
            parts += self._called(part.function_call)
        if part.inline_data is not None and not part.thought:
            parts += self._produced(part.inline_data)
        if part.thought_signature and self._request.tools:
            parts += self._signed(part, part.thought_signature)

    def _signed(self, part: _Part, signature: str) -> Sequence[Part]:
        """Return the signature of a call or a text."""
        if part.thought or part.inline_data is not None:
            return ()
        value = {SIGNS: "call" if part.function_call is not None else "text", SIGNATURE: signature}
        return (OpaquePart(DIALECT, value, self._request.model.provider),)

    def _end(self, reason: FinishReason, parts: list[Part]) -> None:
        """Add the end, once."""
        if self.has_ended:
            return
        parts += self._samples.complete()
        # Gemini reports "stop" for an answer that calls tools, too.
        parts.append(Ended("tool_calls" if reason == "stop" and self._tool_calls.count else reason))
        self.has_ended = True

    def _produced(self, blob: _Blob) -> Sequence[GeneratedMedia]:
        """Return an image or a sound; none for a piece of a sound, or for another type."""
        # The type of raw samples names their rate: `audio/L16;codec=pcm;rate=24000`.
        media_type, *more = (word.strip() for word in (blob.mime_type or "").lower().split(";"))
        kind = _KINDS.get(media_type.partition("/")[0])
        if kind is None or not blob.data:
            return ()
        content = decode_base64(blob.data, is_needed=self._request.model.makes_media)
        if media_type not in _SAMPLES:
            return (GeneratedMedia(kind, media_type, content),) if content is not None else ()
        rates = [int(found[1]) for word in more if (found := _RATE.fullmatch(word))]
        if not self.has_ended:
            self._samples.add_piece(content or b"", rates[0] if rates else None)
        return ()

    def _cited(self, grounding: dict[str, Any]) -> Iterator[Part]:
        """Yield the pages that are cited for the first time; malformed ones are ignored."""
        queries, grounds = grounding.get("webSearchQueries"), grounding.get("groundingChunks")
        if isinstance(queries, list):
            # Every chunk that lists queries lists all so far.
            self._searches = max(self._searches, len(queries))
        for ground in grounds if isinstance(grounds, list) else ():
            page = ground.get("web") if isinstance(ground, dict) else None
            if isinstance(page, dict):
                yield from self._citations.take(page.get("uri"), page.get("title"))

    def _called(self, received: _FunctionCall) -> Sequence[Part]:
        """Return a call; a malformed one is ignored if no tool was offered and there is text."""
        call = self._tool_calls.begin(received.id, received.name)
        call.add_piece(_arguments(bytes(received.args)))
        reported = call.complete(is_needed=bool(self._request.tools) or not self._has_text)
        return (reported,) if reported is not None else ()

    def _used(self) -> Sequence[ReportedUsage]:
        """Return the usage once, if it is plausible."""
        usage, self._usage = self._usage, None
        if usage is None or usage.prompt_token_count is None:
            return ()
        asked = usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0)
        thoughts = usage.thoughts_token_count or 0
        answered = (usage.candidates_token_count or 0) + thoughts
        cached = usage.cached_content_token_count or 0
        used = plausible_usage(asked, answered, thoughts, self._searches, cached=cached)
        return (used,) if used is not None else ()


def _arguments(received: bytes) -> bytes:
    """Return arguments as JSON, also if they come as a string, as in other dialects."""
    text = loads(received) if received.startswith(b'"') else None
    return text.encode() if isinstance(text, str) and text.startswith("{") else received
