"""Chat completions, as OpenAI and all compatible speak it: DeepSeek, Groq, vLLM, llama.cpp...

Owns the words of the dialect: what a request says, and what the chunks of its answer mean. Pure.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from shared.settings import ModelSettings, Secret
from worker.providers.contract import (
    ChatRequest,
    Ended,
    EndReason,
    Part,
    Reasoning,
    Text,
    Used,
    believable,
)
from worker.providers.failures import InBandError

_REASONS: Final[dict[str, EndReason]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}
_LAST_WORD: Final = b"[DONE]"


class _Delta(msgspec.Struct):
    """A step of the answer. Servers name what the model thinks the one way, the other, or both."""

    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None


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


_NOTHING: Final = _Delta()
_decode = msgspec.json.Decoder(_Chunk).decode
_encode = msgspec.json.Encoder().encode


class OpenAI:
    """The dialect."""

    def credentials(self, key: Secret) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"authorization": f"Bearer {key.reveal()}"}

    def path(self, _model: ModelSettings) -> str:
        """Return where a request goes, below the base URL."""
        return "/chat/completions"

    def body(self, request: ChatRequest) -> bytes:
        """Return what a request says."""
        return _encode(
            {
                "model": request.model.upstream,
                "messages": [
                    {"role": message.role, "content": message.content}
                    for message in request.messages
                ],
                "max_tokens": request.max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )

    def reader(self) -> "Chunks":
        """Return what reads one answer."""
        return Chunks()


class Chunks:
    """What reads the chunks of one answer."""

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of a chunk, or None for the last word. Raises InBandError."""
        if data == _LAST_WORD:
            return None
        chunk = _decode(data)
        if chunk.error is not None:
            raise _in_band(chunk.error)
        parts: list[Part] = []
        if chunk.choices:
            _take(chunk.choices[0], parts)
        if chunk.usage is not None:
            used = _used(chunk.usage)
            if used is not None:
                parts.append(used)
        return parts


def _take(choice: _Choice, parts: list[Part]) -> None:
    """Add what a choice says; what comes in one step was thought before it was said."""
    delta = choice.delta or _NOTHING
    thought = delta.reasoning_content or delta.reasoning
    # An odd form of a thought is no fault of the answer, and says nothing.
    if thought and isinstance(thought, str):
        parts.append(Reasoning(thought))
    if delta.content:
        parts.append(Text(delta.content))
    if choice.finish_reason:
        parts.append(Ended(_REASONS.get(choice.finish_reason, "other")))


def _used(usage: _Usage) -> Used | None:
    """Return what was used, if it can be believed; otherwise it is for us to estimate."""
    details = usage.completion_tokens_details
    reasoning = (details.reasoning_tokens if details is not None else None) or 0
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return believable(usage.prompt_tokens, usage.completion_tokens, reasoning)


def _in_band(error: object) -> InBandError:
    """Read an error event inside a 200; its `code` is a status with many servers."""
    return InBandError(error.get("code") if isinstance(error, dict) else None, str(error))
