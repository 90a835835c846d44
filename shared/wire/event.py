"""One entry of a generation's stream: a closed set, numbered EPOCH-SEQ by whoever appends it.

Encoded once, as the JSON that followers are sent; the `type` inside names the event. The first
entry that a follower sees (`accepted`) is not kept: it is told from the record, in the follower's
dialect.
"""

from typing import Any, Final

import msgspec

from shared.errors import Failure
from shared.lifecycle import Stage
from shared.wire.message import MediaKind, Usage
from shared.wire.routing import Routing


class StageChanged(msgspec.Struct, frozen=True, tag="stage"):
    """The generation entered a stage."""

    stage: Stage


class Routed(msgspec.Struct, frozen=True, tag="routed"):
    """A model was chosen."""

    routing: Routing


class Reasoning(msgspec.Struct, frozen=True, tag="reasoning"):
    """The model thought on: `text` is no part of the answer."""

    text: str


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """The answer grew by `text`."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """The model calls a tool; `arguments` is the object that it gave."""

    call_id: str
    tool: str
    arguments: dict[str, Any]


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """A call has ended; `summary` is a sentence for a person."""

    call_id: str
    ok: bool
    summary: str


class ApprovalRequired(msgspec.Struct, frozen=True, tag="approval_required"):
    """A call waits for a person's decision, until `expires_at` (`YYYY-MM-DDTHH:MM:SSZ`)."""

    approval_id: str
    tool: str
    arguments: dict[str, Any]
    expires_at: str


class Media(msgspec.Struct, frozen=True, tag="media"):
    """The answer has a picture, a film or a sound, to be found at `url`."""

    kind: MediaKind
    url: str


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """A new attempt began: keep the first `keep` code points of the text and drop the rest.

    What was told of reasoning, tools and media is dropped whole.
    """

    keep: int


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """The end, with an answer: the text is what the deltas made."""

    message: str
    usage: Usage
    routing: Routing | None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The end, without one."""

    failure: Failure


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """The end, by request."""


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


class _Named(msgspec.Struct):
    type: str


_encode = msgspec.json.Encoder().encode
_name_in = msgspec.json.Decoder(_Named).decode
decode = msgspec.json.Decoder(Event).decode


def encode(event: Event) -> str:
    """Return the event as one line of JSON."""
    return _encode(event).decode()


def name_of(event: bytes) -> bytes:
    """Return the type of an encoded event, which need not be known here."""
    if event.startswith(_TYPE_FIRST):
        start = len(_TYPE_FIRST)
        return event[start : event.index(b'"', start)]
    return _name_in(event).type.encode()


def is_end(event: bytes) -> bool:
    """Tell whether an encoded event ends its stream."""
    return name_of(event) in _ENDS
