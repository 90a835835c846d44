"""What a session keeps of a turn: the user's message and the assistant's.

Stored apart, as two fields of a chunk of turns. The user's is written by `accept` in Lua, the
assistant's by whoever ends the generation: a worker, or Redis itself when no worker is there to do
it.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.errors import Failure
from shared.lifecycle import State
from shared.wire.routing import Routing, StoredRouting

MediaKind = Literal["image", "video", "audio"]
# Why a model ended its answer: by itself, at its limit of tokens, to call tools, by a filter.
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class UserMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the person said, and to which model, where one was named.

    `generation` is the id of the answer; `created` is in ms; `media` are the URLs of pictures that
    came with it, as they were named.
    """

    id: str
    generation: str
    content: str
    created: int
    model: str | None = None
    metadata: dict[str, str] | None = None
    project: str | None = None
    media: tuple[str, ...] = ()


class ModelSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The model as it was named when the answer was made; the catalogue may change later."""

    identifier: str
    name: str
    provider: str


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an answer consumed; `estimated` when the provider did not say. Costs in microcredits.

    `search_cost` is the part of `cost` that its `searches` of the web have, `cached_input_tokens`
    the part of `input_tokens` that the provider read from a cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    estimated: bool = False
    searches: int = 0
    search_cost: int = 0
    cached_input_tokens: int = 0


class Media(msgspec.Struct, frozen=True):
    """A picture, a film or a sound of an answer, and where it is.

    In a record the `url` of what is kept here is its path alone, which is signed when it is told.
    """

    kind: Annotated[MediaKind, Meta(description="What the file is.")]
    url: Annotated[str, Meta(description="Where the file is.")]


class Citation(msgspec.Struct, frozen=True):
    """A page that an answer rests on, as a search found it."""

    url: Annotated[str, Meta(description="Where the page is.")]
    title: Annotated[str, Meta(description="The page's title, or an empty text.")] = ""


class Enhancement(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a message was reworded before it was answered; `text` is what was sent.

    `reason` is a word of `wire.enhancement`.
    """

    applied: bool
    reason: str
    text: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer, or as much of it as there was when it ended; `created` is in ms.

    `reasoning` is what a worker heard the model think; an end from outside keeps the text only.
    `model` is the one that was named; without it, `routing` tells which one answered: as it is kept
    now, or whole, as it was kept before. `finish_reason` means something once `status` is
    `completed`; most answers stop by themselves, and only another reason takes room in the record.
    """

    status: State
    content: str
    created: int
    model: ModelSnapshot | None = None
    routing: StoredRouting | Routing | None = None
    usage: Usage | None = None
    failure: Failure | None = None
    reasoning: str = ""
    media: tuple[Media, ...] = ()
    citations: tuple[Citation, ...] = ()
    enhancement: Enhancement | None = None
    finish_reason: FinishReason = "stop"

    @property
    def visible_finish_reason(self) -> FinishReason | None:
        """Why the model ended its answer; None for one that was ended from outside."""
        return self.finish_reason if self.status == "completed" else None


encode_assistant = msgspec.msgpack.Encoder().encode
decode_assistant = msgspec.msgpack.Decoder(AssistantMessage).decode
decode_user = msgspec.msgpack.Decoder(UserMessage).decode
