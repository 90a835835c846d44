"""One event of a generation's stream: a closed set, numbered EPOCH-SEQ by whoever appends it.

Encoded once, as the JSON that followers receive; its `type` names the event. EPOCH is the attempt,
SEQ counts its events: `2-5` is the fifth of the second attempt. The first event that a follower
sees (`accepted`) is not stored: each dialect makes it from the record.
"""

from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from shared.errors import Failure
from shared.lifecycle import Stage
from shared.wire.conversation import CallPart
from shared.wire.message import MediaKind, Usage
from shared.wire.routing import Routing


class StageChanged(msgspec.Struct, frozen=True, tag="stage"):
    """The generation entered a stage."""

    stage: Annotated[Stage, Meta(description="The stage that it is in now.")]


class Routed(msgspec.Struct, frozen=True, tag="routed"):
    """A model was chosen."""

    routing: Annotated[Routing, Meta(description="Which model was chosen, and why.")]


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """The model's reasoning grew by `text`, which is no part of the answer."""

    text: Annotated[str, Meta(description="What it thought since the event before.")]


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """The answer grew by `text`."""

    text: Annotated[str, Meta(description="What to append to the text so far.")]


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call", omit_defaults=True):
    """The model calls a tool. Arguments that are no JSON object are in `malformed`, as written."""

    call_id: Annotated[str, Meta(description="The call's id.")]
    tool: Annotated[str, Meta(description="The tool's name.")]
    arguments: Annotated[dict[str, Any], Meta(description="What the model gave to the tool.")]
    malformed: Annotated[
        str,
        Meta(
            description="What the model wrote, where that is no JSON object: `arguments` is then "
            "empty."
        ),
    ] = ""

    @classmethod
    def of(cls, call: CallPart) -> Self:
        """Return the event of a call."""
        arguments = call.object
        if arguments is None:
            return cls(call.call_id, call.tool, {}, call.arguments)
        return cls(call.call_id, call.tool, arguments)


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """A tool call ended."""

    call_id: Annotated[str, Meta(description="The id that its `tool_call` has.")]
    ok: Annotated[bool, Meta(description="Whether the call succeeded.")]
    summary: Annotated[str, Meta(description="What came of it, in a sentence for a person.")]


class ApprovalRequired(msgspec.Struct, frozen=True, tag="approval_required"):
    """A tool call waits for a person's decision."""

    approval_id: Annotated[str, Meta(description="The id to decide by.")]
    tool: Annotated[str, Meta(description="The tool's name.")]
    arguments: Annotated[dict[str, Any], Meta(description="What the model gave to the tool.")]
    expires_at: Annotated[
        str, Meta(description="When the call is given up, as in `2026-01-31T12:00:00Z`.")
    ]


class Media(msgspec.Struct, frozen=True, tag="media"):
    """The answer has a picture, a film or a sound at `url`."""

    kind: Annotated[MediaKind, Meta(description="What the file is.")]
    url: Annotated[str, Meta(description="Where the file is.")]


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """A new attempt began, or an answer of another form than was asked for is made once more.

    Keep the first `keep` code points of the text and drop the rest.

    Reasoning, tool calls and media of earlier attempts are dropped whole; those of finished rounds,
    whose text stays, are sent again.
    """

    keep: Annotated[int, Meta(description="Code points of the text that stay, from its start.")]


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """The end with an answer: its text is that of all deltas."""

    message: str
    usage: Usage
    routing: Routing | None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The end without an answer."""

    failure: Failure


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """The end by request."""


Event = (
    StageChanged
    | Routed
    | Reasoning
    | Delta
    | ToolCall
    | ToolResult
    | ApprovalRequired
    | Media
    | Reset
    | Completed
    | Failed
    | Cancelled
)

_ENDS: Final = frozenset({b"completed", b"failed", b"cancelled"})
_TYPE_FIRST: Final = b'{"type":"'
_END_FIRST: Final = tuple(_TYPE_FIRST + name + b'"' for name in sorted(_ENDS))


class _Named(msgspec.Struct):
    type: str


_encode = msgspec.json.Encoder().encode
_name_in = msgspec.json.Decoder(_Named).decode
decode = msgspec.json.Decoder(Event).decode


def encode(event: Event) -> str:
    """Return the event as one line of JSON."""
    return _encode(event).decode()


def name_of(event: bytes) -> bytes:
    """Return the type of an encoded event, which need not be one of this version."""
    if event.startswith(_TYPE_FIRST):
        start = len(_TYPE_FIRST)
        return event[start : event.index(b'"', start)]
    return _name_in(event).type.encode()


def is_end(event: bytes) -> bool:
    """Tell whether an encoded event ends its stream."""
    if event.startswith(_TYPE_FIRST):
        return event.startswith(_END_FIRST)
    return name_of(event) in _ENDS
