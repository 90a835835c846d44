"""What every adapter offers: a stream of a model's answer, in Pollux' own words.

An adapter turns one request into one upstream call, and every way in which that can fail into a
`ProviderError` by its one table. It never retries and never touches Redis. A part that an upstream
does not know is one that its adapter does not yield.
"""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

from shared.settings import ModelSettings
from shared.wire.event import ToolCall, ToolResult
from shared.wire.message import Media


class ChatMessage(msgspec.Struct, frozen=True):
    """One message as a model reads it."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream call; `max_tokens` bounds the answer."""

    model: ModelSettings
    messages: list[ChatMessage]
    max_tokens: int


class Text(msgspec.Struct, frozen=True):
    """The answer grew."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """The model thought on, before its answer or within it."""

    text: str


class Used(msgspec.Struct, frozen=True):
    """What the upstream says it consumed."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0


class Ended(msgspec.Struct, frozen=True):
    """The upstream ended the answer by itself, and why."""

    reason: Literal["stop", "length", "content_filter", "tool_calls", "other"]


# What comes beside the text. What an upstream's own tools do, and media, are told as they are.
Aside = Reasoning | ToolCall | ToolResult | Media | Used
Part = Text | Aside | Ended


class Provider(Protocol):
    """A connection to one upstream."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer; a normal end has had an `Ended`. Raises ProviderError."""

    async def close(self) -> None:
        """Close the upstream's connections."""
