"""A turn's two messages, as a session keeps them: the user's and the assistant's.

Stored as two fields of a chunk of turns. `accept` writes the user's, in Lua; whoever ends the
generation writes the assistant's: a worker, or a Redis function where no worker holds the
generation.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.errors import Failure
from shared.lifecycle import State
from shared.wire.conversation import Message, Part
from shared.wire.routing import Routing, StoredRouting

MediaKind = Literal["image", "video", "audio"]
# Why a model ended its answer: by itself, at its token limit, to call tools, by a content filter.
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
# Tokens are estimated from bytes, on the high side: one holds four of English, three of most else.
BYTES_PER_TOKEN: Final = 3
# Beside its text, for the role and the separators of a message.
TOKENS_PER_MESSAGE: Final = 8


class UserMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the user wrote, and the requested model, where one was named.

    `generation` is the id of the answer; `created` is in ms; `media` are the URLs of pictures, as
    the caller named them.
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
    """What an answer used; `estimated` where the provider did not say. Costs in microcredits.

    `search_cost` is the searches' part of `cost`. Of `input_tokens`, the provider read
    `cached_input_tokens` from a cache and wrote `cache_write_tokens` to one.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0
    estimated: bool = False
    searches: int = 0
    search_cost: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0


class CallCost(msgspec.Struct, frozen=True):
    """What one call of a model cost, by that model's price list; searches made for it included."""

    model: str
    usage: Usage


def total_usage(costs: Sequence[CallCost]) -> Usage:
    """Return the usage of calls together; its cost is the sum of theirs."""
    if len(costs) == 1:
        return costs[0].usage
    counts = {
        name: sum(getattr(each.usage, name) for each in costs)
        for name in Usage.__struct_fields__
        if name != "estimated"
    }
    is_estimated = any(each.usage.estimated for each in costs)
    return msgspec.structs.replace(Usage(), **counts, estimated=is_estimated)


class Media(msgspec.Struct, frozen=True):
    """A picture, a film or a sound of an answer, and where it is.

    In a record, the `url` of a file that Pollux keeps is its path alone; it is signed when it is
    sent.
    """

    kind: Annotated[MediaKind, Meta(description="What the file is.")]
    url: Annotated[str, Meta(description="Where the file is.")]


class Citation(msgspec.Struct, frozen=True):
    """A page that a search found and an answer cites."""

    url: Annotated[str, Meta(description="Where the page is.")]
    title: Annotated[str, Meta(description="The page's title, or an empty text.")] = ""


class Enhancement(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a message was reworded before it was answered; `text` is what was sent.

    `reason` is a word of `shared.wire.enhancement`.
    """

    applied: bool
    reason: str
    text: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer, or the part of it that there was at the end; `created` is in ms.

    `reasoning` is what the worker received of it; a generation that ends without a worker keeps
    only its text. `model` is stored where the caller named one; otherwise `routing` says which one
    answered, in its short form, or whole in records of older versions. `finish_reason` counts once
    `status` is `completed`; the usual "stop" is not stored. `rounds` are the messages of finished
    rounds before the answer (calls of tools and their results), and `content` has their text, too;
    `parts` are the answer's own, where there are rounds or it has more than text: calls of the
    caller's tools, opaque parts. `costs` are those of the single calls, where there were several.
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
    rounds: tuple[Message, ...] = ()
    parts: tuple[Part, ...] = ()
    costs: tuple[CallCost, ...] = ()

    @property
    def visible_finish_reason(self) -> FinishReason | None:
        """Why the model ended its answer; None for one that was ended by something else."""
        return self.finish_reason if self.status == "completed" else None


encode_assistant = msgspec.msgpack.Encoder().encode
decode_assistant = msgspec.msgpack.Decoder(AssistantMessage).decode
decode_user = msgspec.msgpack.Decoder(UserMessage).decode
