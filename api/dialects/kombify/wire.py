"""What goes over the wire of the Kombify dialect, field by field.

Requests are closed: an unknown field is refused by name, null counts as absent. Replies are open:
later fields may join them. Times are `YYYY-MM-DDTHH:MM:SSZ`, credits have at most six decimals. A
single object is the object itself; a list says how many there are and which part this is.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.follow.told import Message, Usage
from api.options import Metadata, Options, SessionName
from shared.companions import Layer
from shared.lifecycle import State
from shared.wire.message import Citation, FinishReason
from shared.wire.routing import Routing


class ChatBody(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to answer, by a companion if one is named here or by the session."""

    companion: Annotated[str | None, Meta(description="A type of GET /v1/ai/agents.")] = None
    model: Annotated[
        str | None,
        Meta(
            description="An identifier, an alias or `auto`. When omitted: the stored preference, "
            "else the companion's own model, else `auto`."
        ),
    ] = None
    stream: Annotated[
        bool | None, Meta(description="Answer with server-sent events (default: false).")
    ] = None


class SessionBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session to begin; the companion answers in it unless a turn names another."""

    companion: str | None = None
    name: SessionName | None = None
    metadata: Metadata | None = None


class SessionNameBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session's new name."""

    name: SessionName


class PreferredModelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model to prefer: an identifier, an alias or `auto`; null for none."""

    model: str | None


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, what it cost, and which model gave it and why."""

    id: str
    session_id: str
    message: Message
    usage: Usage
    routing: Routing | None


class LaterReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is not there yet: look at `poll_url` after so many seconds."""

    id: str
    session_id: str
    state: Literal["processing"] = "processing"
    poll_url: str
    poll_interval_hint: int


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent may use; `approval` where a person must allow each call."""

    name: str
    description: str
    approval: bool


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody to talk to. `available` while a live worker serves its model."""

    type: str
    name: str
    description: str
    kind: Literal["companion", "manager"] = "companion"
    capabilities: tuple[str, ...]
    tools: list[Tool] = []
    model: str
    memory_layers: tuple[Layer, ...]
    available: bool


class AgentsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The agents of this deployment."""

    items: list[Agent]
    total: int
    limit: int
    offset: int


class SessionReply(msgspec.Struct, frozen=True, kw_only=True):
    """A session; `companion` is the one it was begun with."""

    id: str
    companion: str | None
    name: str
    metadata: dict[str, str]
    created_at: str
    last_activity: str
    messages_total: int


class SessionsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's sessions, last active first."""

    items: list[SessionReply]
    total: int
    limit: int
    offset: int


class SessionMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a session, one of the two of its turn; `model` gave the answer.

    `media_urls` are the pictures that came with a user's, the others those that an answer has;
    `citations` are there only if there are any, `finish_reason` with a completed answer.
    """

    id: str
    role: Literal["user", "assistant"]
    content: str
    status: State
    model: str | None
    citations: list[Citation] | UnsetType = UNSET
    finish_reason: FinishReason | UnsetType = UNSET
    turn: int
    media_urls: list[str] | UnsetType = UNSET
    image_urls: list[str] | UnsetType = UNSET
    video_urls: list[str] | UnsetType = UNSET
    audio_urls: list[str] | UnsetType = UNSET
    created_at: str


class WholeSessionReply(SessionReply, frozen=True, kw_only=True):
    """A session and its messages, oldest first: the last hundred, or those before a turn."""

    messages: list[SessionMessage]


class PreferencesReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the account has chosen; null where it has not."""

    model: str | None


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong; `details` depend on the code."""

    code: str
    message: str
    details: dict[str, Any]


class ErrorMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Which request this answers, and when."""

    request_id: str
    timestamp: str


class ErrorEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """Every refusal of this dialect."""

    status: Literal["error"] = "error"
    code: str
    message: str
    error: ErrorDetail
    meta: ErrorMeta
