"""What every provider offers: a stream of a model's answer, in Pollux' own words.

A provider turns one request into one upstream call, and every way in which that can fail into a
`ProviderError` by one table. It never retries and never touches Redis. What differs from one kind
of upstream to the next is its dialect, which is pure: no socket, no clock. A part that an upstream
does not know is one that its dialect does not read.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from shared.settings import ModelSettings, Secret
from shared.wire.event import ToolCall, ToolResult
from shared.wire.message import Citation, FinishReason, Media, MediaKind
from worker.providers.rate_limit_headers import RateLimits

# More than any model can read or write: a count beyond it is a fault of the upstream's bookkeeping.
TOKENS_MAX: Final = 100_000_000
SEARCHES_MAX: Final = 1_000
_SILENCE_SECONDS: Final = 60.0
# Some upstreams say nothing at all while a model thinks, not even a comment.
_SILENCE_THINKING_SECONDS: Final = 180.0


class Image(msgspec.Struct, frozen=True):
    """A picture that a model looks at, in full; `media_type` is like `image/png`."""

    media_type: str
    content: bytes


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message as a model reads it.

    A user's may have images, an assistant's may have called tools. A tool's is the result of the
    call `call_id`; the results of all calls of a message follow it at once. What a model thought is
    no part of what it is told again.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    images: tuple[Image, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


class Tool(msgspec.Struct, frozen=True):
    """What a model may call; `parameters` is the JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream call; `max_tokens` bounds the answer, and what is thought before it.

    `deep_think` and `web_search` are for models that can: the catalogue says which, and no dialect
    asks it. `so_far` is what the upstream said before it paused, in its own words.
    """

    model: ModelSettings
    messages: list[ChatMessage]
    max_tokens: int
    tools: tuple[Tool, ...] = ()
    deep_think: bool = False
    web_search: bool = False
    so_far: tuple[dict[str, Any], ...] = ()

    def silence_seconds(self) -> float:
        """Return how long nothing at all may come before the answer begins."""
        may_think = self.deep_think or "reasoning" in self.model.capabilities
        usual_seconds = _SILENCE_THINKING_SECONDS if may_think else _SILENCE_SECONDS
        limit_seconds = self.model.silence_seconds or usual_seconds
        return min(limit_seconds, self.model.first_token_seconds)


class Text(msgspec.Struct, frozen=True):
    """The answer grew."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """The model thought on, before its answer or within it."""

    text: str


class ReportedUsage(msgspec.Struct, frozen=True):
    """What the upstream says it consumed; `searches` is 0 also where it counts none.

    `cached_input_tokens` are the part of `input_tokens` that it read from a cache.
    """

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    searches: int = 0
    cached_input_tokens: int = 0


class GeneratedMedia(msgspec.Struct, frozen=True):
    """The model made a picture or a sound, here in full; `media_type` is what the upstream says."""

    kind: MediaKind
    media_type: str
    content: bytes


class Ended(msgspec.Struct, frozen=True):
    """The upstream ended the answer by itself, and why."""

    reason: FinishReason


class Paused(msgspec.Struct, frozen=True):
    """The upstream paused in the middle and expects a request that repeats `content` to it."""

    content: tuple[dict[str, Any], ...]


class KeepAlive(msgspec.Struct, frozen=True):
    """The upstream gave a sign of life and said nothing: a comment, a ping, an empty step.

    The first one is the head of its answer, with what that tells of calls that may run out.
    """

    limits: RateLimits | None = None


# What comes beside the text. What an upstream's own tools do, and media elsewhere, are told as they
# are; of a search it made, the pages that the answer rests on.
NonTextPart = Reasoning | ToolCall | ToolResult | Media | GeneratedMedia | Citation | ReportedUsage
Part = Text | NonTextPart | Ended | Paused | KeepAlive


class Provider(Protocol):
    """A connection to one upstream."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer; a whole one has had an `Ended`, or a `Paused`.

        Raises ProviderError, but not once the answer has ended.
        """

    async def close(self) -> None:
        """Close the upstream's connections."""


class Reader(Protocol):
    """What reads the events of one answer, in their order."""

    @property
    def has_ended(self) -> bool:
        """Whether the end has been told, or a pause: what follows can take nothing from it."""

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of an event, or None when the upstream has said its last word.

        Raises:
            InBandError: it is a failure that the upstream tells.
            AnswerFailedError: it is an end that says that the answer failed.
            TooLargeError: there is more of something than any answer has reason to have.
            msgspec.MsgspecError: it cannot be read, and the answer is not whole without it.

        """

    def finish(self) -> Sequence[Part]:
        """Return what only shows once nothing follows: an end for a reason that nobody knows."""


class Dialect(Protocol):
    """How one kind of upstream is spoken to."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the headers of every request, among them the one that carries the key."""

    def path(self, model: ModelSettings) -> str:
        """Return where a request for a model goes, below the provider's base URL."""

    def body(self, request: ChatRequest) -> bytes:
        """Return what a request says, as JSON."""

    def reader(self, request: ChatRequest) -> Reader:
        """Return what reads the answer to a request."""


def plausible_usage(
    input_tokens: int, output_tokens: int, reasoning_tokens: int, searches: int = 0, cached: int = 0
) -> ReportedUsage | None:
    """Return what was used, unless no model can have used it; `cached` is a part of the input."""
    counts = (input_tokens, output_tokens, reasoning_tokens, searches)
    is_plausible = min(counts) >= 0 and max(counts) <= TOKENS_MAX and searches <= SEARCHES_MAX
    cached = cached if 0 <= cached <= input_tokens else 0
    return ReportedUsage(*counts, cached) if is_plausible else None
