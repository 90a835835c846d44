"""What every provider offers: the stream of a model's answer, as parts of Pollux' own types.

A provider turns one request into one upstream call, and every failure of it into a `ProviderError`
by one table. It never retries and never uses Redis. What differs between kinds of upstreams is the
dialect, which is pure: no socket, no clock. A dialect yields only the parts that its upstream
knows.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, Self

import msgspec

from shared.settings import ModelSettings, Secret
from shared.wire.conversation import (
    AnswerOptions,
    CallPart,
    ImagePart,
    Message,
    OpaquePart,
    Role,
    TextPart,
)
from shared.wire.event import ToolResult
from shared.wire.message import Citation, FinishReason, Media, MediaKind
from worker.providers.rate_limit_headers import RateLimits

# More than any model can read or write: a larger count is an error of the upstream.
TOKENS_MAX: Final = 100_000_000
SEARCHES_MAX: Final = 1_000
_SILENCE_SECONDS: Final = 60.0
# Some upstreams send nothing while a model thinks, not even a comment.
_SILENCE_THINKING_SECONDS: Final = 180.0


class Image(msgspec.Struct, frozen=True):
    """An input image, in full; `media_type` is like `image/png`."""

    media_type: str
    content: bytes


MessagePart = TextPart | Image | CallPart | OpaquePart


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message as a model reads it: its parts in their order, images in full.

    Only users' and tools' messages have images, only an assistant's has calls and opaque parts. A
    tool's message is the result of the call `call_id`, or its failure; the results of all calls of
    a message follow it directly.
    """

    role: Role
    parts: tuple[MessagePart, ...]
    call_id: str = ""
    is_error: bool = False

    @classmethod
    def of(cls, message: Message, images: Mapping[str, Image]) -> Self:
        """Return a message with its images, by their URLs; others are left out."""
        parts = (
            images.get(part.url) if isinstance(part, ImagePart) else part for part in message.parts
        )
        known = tuple(part for part in parts if part is not None)
        return cls(message.role, known, message.call_id, message.is_error)

    @property
    def text(self) -> str:
        """All text of the message, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of the message."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def calls(self) -> tuple[CallPart, ...]:
        """The calls of tools in the message."""
        return tuple(part for part in self.parts if isinstance(part, CallPart))


# The messages of one turn: the user's, those of finished rounds, the assistant's.
Turn = tuple[ChatMessage, ...]


def text_message(role: Role, text: str, images: Sequence[Image] = ()) -> ChatMessage:
    """Return a message of one text, after images."""
    return ChatMessage(role, (*images, TextPart(text)) if text else tuple(images))


class ChatRequest(AnswerOptions, frozen=True, kw_only=True):
    """One upstream call; `max_tokens` bounds the answer together with its reasoning.

    `deep_think` and `web_search` are set only for models that support them by the catalogue;
    dialects do not check that. `tools` may be the deployment's. `so_far` is the content that the
    upstream sent before it paused. `repeated` is how far the beginning of this request is likely to
    be that of the next one, too: its tools, with the system prompt, or with the history as well.
    `own_texts` are the parts of it that the caller has not written, which no error shows.
    """

    model: ModelSettings
    messages: list[ChatMessage]
    max_tokens: int
    deep_think: bool = False
    web_search: bool = False
    so_far: tuple[dict[str, Any], ...] = ()
    repeated: Literal["tools", "system", "history"] = "history"
    own_texts: tuple[str, ...] = ()

    def silence_seconds(self) -> float:
        """Return how long the upstream may send nothing at all before the answer begins."""
        may_think = self.deep_think or "reasoning" in self.model.capabilities
        usual_seconds = _SILENCE_THINKING_SECONDS if may_think else _SILENCE_SECONDS
        limit_seconds = self.model.silence_seconds or usual_seconds
        return min(limit_seconds, self.model.first_token_seconds)


class Text(msgspec.Struct, frozen=True):
    """A piece of the answer."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """A piece of reasoning, before the answer or within it."""

    text: str


class ReportedUsage(msgspec.Struct, frozen=True):
    """The usage that the upstream reports; `searches` is 0 if it does not count them.

    `cached_input_tokens` are the part of `input_tokens` that was read from a cache, and
    `cache_write_tokens` the part that was written to one.
    """

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    searches: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0


class GeneratedMedia(msgspec.Struct, frozen=True):
    """A generated image or sound, in full; `media_type` is the upstream's."""

    kind: MediaKind
    media_type: str
    content: bytes


class Ended(msgspec.Struct, frozen=True):
    """The upstream ended the answer, with the reason."""

    reason: FinishReason


class Paused(msgspec.Struct, frozen=True):
    """The upstream paused the answer; it continues when a request sends `content` back."""

    content: tuple[dict[str, Any], ...]


class KeepAlive(msgspec.Struct, frozen=True):
    """A sign of life without content: a comment, a ping, an empty piece.

    The first one is the head of the response, with its rate limits if few calls remain.
    """

    limits: RateLimits | None = None


# What comes beside text: calls of tools, whole, and what the upstream wants back unchanged; results
# of the upstream's own tools and media URLs, passed on; of its web search, the pages cited.
NonTextPart = (
    Reasoning
    | CallPart
    | OpaquePart
    | ToolResult
    | Media
    | GeneratedMedia
    | Citation
    | ReportedUsage
)
Part = Text | NonTextPart | Ended | Paused | KeepAlive


class Provider(Protocol):
    """The connections to one upstream."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer; a complete one has an `Ended` or a `Paused`.

        Raises ProviderError, but never after that part.
        """

    async def close(self) -> None:
        """Close the upstream's connections."""


class Reader(Protocol):
    """Reads the events of one answer, in their order."""

    @property
    def has_ended(self) -> bool:
        """Whether `Ended` or `Paused` was returned: later errors no longer harm the answer."""

    def read(self, data: bytes) -> Sequence[Part] | None:
        """Return the parts of an event, or None after the upstream's last event.

        Raises:
            InBandError: the event reports a failure of the upstream.
            AnswerFailedError: the finish reason says that the answer failed.
            TooLargeError: the answer has more of something than any answer should.
            msgspec.MsgspecError: the event cannot be read, and the answer needs it.

        """

    def finish(self) -> Sequence[Part]:
        """Return the parts that only the end of the body shows: an end with an unknown reason."""


class Dialect(Protocol):
    """The API of one kind of upstream."""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the headers of every request, among them the one that carries the key."""

    def path(self, model: ModelSettings) -> str:
        """Return the path of a request for a model, below the provider's base URL."""

    def body(self, request: ChatRequest) -> bytes:
        """Return the body of a request, as JSON."""

    def reader(self, request: ChatRequest) -> Reader:
        """Return the reader of the answer to a request."""


def plausible_usage(
    input_tokens: int,
    output_tokens: int,
    reasoning_tokens: int,
    searches: int = 0,
    *,
    cached: int = 0,
    written: int = 0,
) -> ReportedUsage | None:
    """Return the usage, or None if its counts are impossible.

    `cached` and `written` are parts of the input, read from a cache and written to one; those that
    exceed it are ignored.
    """
    counts = (input_tokens, output_tokens, reasoning_tokens, searches)
    is_plausible = min(counts) >= 0 and max(counts) <= TOKENS_MAX and searches <= SEARCHES_MAX
    cached = cached if 0 <= cached <= input_tokens else 0
    written = written if 0 <= written <= input_tokens - cached else 0
    return ReportedUsage(*counts, cached, written) if is_plausible else None
