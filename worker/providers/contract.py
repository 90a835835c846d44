"""What every adapter offers: a stream of a model's answer, in Pollux' own words.

An adapter turns one request into one upstream call, and every way in which that can fail into a
`ProviderError` by its one table. It never retries and never touches Redis.
"""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

from shared.settings import ModelSettings


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


class Used(msgspec.Struct, frozen=True):
    """What the upstream says it consumed."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0


class Ended(msgspec.Struct, frozen=True):
    """The upstream ended the answer by itself, and why."""

    reason: Literal["stop", "length", "content_filter", "tool_calls", "other"]


Part = Text | Used | Ended


class Provider(Protocol):
    """A connection to one upstream."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer; a normal end has had an `Ended`. Raises ProviderError."""

    async def close(self) -> None:
        """Close the upstream's connections."""
