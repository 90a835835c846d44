"""The fields of requests and replies of the Kombify dialect.

Requests are closed: an unknown field is refused by name, null counts as absent. Replies are open:
later versions may add fields. Times are `YYYY-MM-DDTHH:MM:SSZ`, credits have at most six decimals.
A single object is the object itself; a list says how many there are and which part this is.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.accept.options import Metadata, Options, SessionName
from api.follow.stream_events import Message, Usage
from api.wire import fields
from shared.companions import Layer
from shared.lifecycle import State
from shared.wire.account import Scope
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

    companion: Annotated[str | None, Meta(description="A type of GET /v1/ai/agents.")] = None
    name: SessionName | None = None
    metadata: Metadata | None = None


class SessionNameBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session's new name."""

    name: SessionName


class PreferredModelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model to prefer."""

    model: Annotated[
        str | None, Meta(description="An identifier, an alias or `auto`; null for none.")
    ]


class KeyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key to make. It has no scope that the key lacks which asks, and expires no later."""

    name: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100)] | None,
        Meta(description="A name for people, without control characters."),
    ] = None
    scopes: Annotated[
        Annotated[list[Scope], Meta(min_length=1, max_length=16)] | None,
        Meta(
            description="What the key may do. When omitted: those of `chat` and `read` that the "
            "key has which asks."
        ),
    ] = None
    expires_at: Annotated[
        str | None,
        Meta(
            description="When it expires, as in 2026-01-31T12:00:00Z. When omitted: with the key "
            "which asks, if that expires.",
            extra_json_schema={"format": "date-time"},
        ),
    ] = None


class ChatReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, what it cost, and which model gave it and why."""

    id: fields.GenerationId
    session_id: fields.SessionIdOrNull
    message: Annotated[Message, Meta(description="The answer.")]
    usage: Annotated[Usage, Meta(description="What it consumed and cost.")]
    routing: Annotated[Routing | None, Meta(description="Which model was chosen, and why.")]


class LaterReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is not there yet."""

    id: fields.GenerationId
    session_id: fields.SessionIdOrNull
    state: Annotated[Literal["processing"], Meta(description="It is still being made.")] = (
        "processing"
    )
    poll_url: fields.PollUrl
    poll_interval_hint: fields.PollIntervalHint
    events_url: fields.EventsUrl
    cancel_url: fields.CancelUrl


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent may use."""

    name: Annotated[str, Meta(description="The tool's name.")]
    description: Annotated[str, Meta(description="What the tool does.")]
    approval: Annotated[bool, Meta(description="Whether a person must allow each call.")]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody to talk to."""

    type: Annotated[str, Meta(description="What a chat's `companion` names it by.")]
    name: Annotated[str, Meta(description="Its name for people.")]
    description: Annotated[str, Meta(description="What it does, in a sentence.")]
    kind: Annotated[
        Literal["companion", "manager"],
        Meta(description="A `manager` acts on events and is not talked to."),
    ] = "companion"
    capabilities: Annotated[tuple[str, ...], Meta(description="What it is good at.")]
    tools: Annotated[list[Tool], Meta(description="What it may use.")] = []
    model: Annotated[
        str, Meta(description="The model it speaks by; `auto` where Smart Select chooses.")
    ]
    memory_layers: Annotated[tuple[Layer, ...], Meta(description="What it remembers.")]
    available: Annotated[bool, Meta(description="Whether a live worker serves its model now.")]


class AgentsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The agents of this deployment."""

    items: Annotated[list[Agent], Meta(description="This part of the list.")]
    total: fields.Total
    limit: fields.Limit
    offset: fields.Offset


class SessionReply(msgspec.Struct, frozen=True, kw_only=True):
    """A session."""

    id: Annotated[str, Meta(description="The session's id.")]
    companion: Annotated[str | None, Meta(description="The companion it was created with, if any.")]
    name: Annotated[str, Meta(description="Its name for people.")]
    metadata: Annotated[dict[str, str], Meta(description="The metadata it was created with.")]
    created_at: fields.CreatedAt
    last_activity: Annotated[fields.Time, Meta(description="When a message last came.")]
    messages_total: Annotated[int, Meta(description="How many messages it has.")]


class SessionsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's sessions."""

    items: Annotated[
        list[SessionReply], Meta(description="This part of the list, last active first.")
    ]
    total: fields.Total
    limit: fields.Limit
    offset: fields.Offset


class SessionMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a session, one of the two of its turn."""

    id: Annotated[str, Meta(description="The message's id; an assistant's is the generation's id.")]
    role: Annotated[Literal["user", "assistant"], Meta(description="Who wrote it.")]
    content: fields.Content
    status: Annotated[State, Meta(description="Always `completed` for the user's.")]
    model: Annotated[
        str | None, Meta(description="The model that gave the answer; null for the user's.")
    ]
    citations: fields.Citations | UnsetType = UNSET
    finish_reason: fields.FinishReasonOrNull | UnsetType = UNSET
    turn: Annotated[int, Meta(description="The number of its turn, from 1.")]
    media_urls: fields.SentMediaUrls | UnsetType = UNSET
    image_urls: fields.ImageUrls | UnsetType = UNSET
    video_urls: fields.VideoUrls | UnsetType = UNSET
    audio_urls: fields.AudioUrls | UnsetType = UNSET
    created_at: fields.CreatedAt


class WholeSessionReply(SessionReply, frozen=True, kw_only=True):
    """A session and its messages: the last hundred, or those before a turn."""

    messages: Annotated[list[SessionMessage], Meta(description="Oldest first, two a turn.")]


class PreferencesReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the account has chosen."""

    model: Annotated[
        str | None,
        Meta(description="The model of chats that name none; null where none was chosen."),
    ]


class KeyReply(msgspec.Struct, frozen=True, kw_only=True):
    """An API key of the account, without the key itself."""

    id: Annotated[str, Meta(description="The id of the key, by which it is deleted.")]
    name: Annotated[str | None, Meta(description="Its name for people, if it has one.")]
    scopes: Annotated[tuple[Scope, ...], Meta(description="What it may do.")]
    created_at: fields.CreatedAt
    created_by: Annotated[
        str | None,
        Meta(description="The id of the key that made it; null where an operator did."),
    ]
    expires_at: Annotated[
        fields.Time | None, Meta(description="When it expires, in UTC; null for never.")
    ]


class NewKeyReply(KeyReply, frozen=True, kw_only=True):
    """An API key that was just made."""

    key: Annotated[
        str | None,
        Meta(
            description="The key itself, to be sent as `X-API-Key`. It is shown this once: null "
            "where the same request made it before."
        ),
    ]


class KeysReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's API keys, without those that were revoked."""

    items: Annotated[list[KeyReply], Meta(description="This part of the list, last made first.")]
    total: fields.Total
    limit: fields.Limit
    offset: fields.Offset


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    code: fields.ErrorCode
    message: Annotated[str, Meta(description="What is wrong, in a sentence for a person.")]
    details: Annotated[fields.Details, Meta(description="What the code has beside it.")]


class ErrorMeta(msgspec.Struct, frozen=True, kw_only=True):
    """Which request this answers, and when."""

    request_id: fields.RefusedRequestId
    timestamp: Annotated[fields.Time, Meta(description="When it was refused, in UTC.")]


class ErrorEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """Every refusal of this dialect."""

    status: Annotated[Literal["error"], Meta(description="Always `error`.")] = "error"
    code: fields.ErrorCode
    message: Annotated[str, Meta(description="What is wrong, in a sentence for a person.")]
    error: Annotated[ErrorDetail, Meta(description="The same, and the details.")]
    meta: Annotated[ErrorMeta, Meta(description="Which request this answers, and when.")]
