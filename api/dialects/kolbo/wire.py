"""What goes over the wire of the Kolbo dialect, field by field.

Requests are closed: an unknown field is refused by name, null counts as absent. Replies are open:
later fields may join them. Times are `YYYY-MM-DDTHH:MM:SSZ`, credits have at most six decimals.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.options import Options, SessionName
from shared.errors import Category
from shared.lifecycle import Stage, State
from shared.wire.message import Citation, FinishReason


class SubmitBody(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to answer. Fields whose feature is not there are refused when asked for."""

    model: Annotated[
        str | None, Meta(description="An identifier of GET /api/v1/models, or `auto`.")
    ] = None


class RenameBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation's new name."""

    name: SessionName


class SubmitReply(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt: the message is in, and where to look for the answer."""

    success: Literal[True] = True
    message_id: str
    session_id: str
    type: Literal["chat"] = "chat"
    model: str
    poll_url: str
    poll_interval_hint: int
    events_url: str
    cancel_url: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, always an object, since clients read it unguarded. `partial` while being made.

    While it is being made, `content` alone is told as far as it is. A URL that is a path is good on
    this front, without a key, until the second that its `expires` names; a later look has another.
    `finish_reason` is null unless the state is `completed`: `length` where the limit of tokens cut
    the answer, `content_filter` where a filter of the provider's did.
    """

    content: str
    reasoning_content: str | None = None
    image_urls: list[str] = []
    video_urls: list[str] = []
    audio_urls: list[str] = []
    citations: list[Citation] = []
    finish_reason: FinishReason | None = None
    model: str
    created_at: str
    partial: bool | UnsetType = UNSET


class EtaSeconds(msgspec.Struct, frozen=True):
    """Seconds until the end, as half and nine tenths of answers like it had it."""

    p50: float
    p90: float


class Enhancement(msgspec.Struct, frozen=True):
    """What became of the permission to reword the message."""

    applied: bool
    reason: str
    text: str | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer; `provider` is the upstream's name where one is to blame."""

    message: str
    category: Category
    code: str
    retryable: bool
    severity: Literal["error", "fatal"]
    provider: str | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was weighed; `excluded_by` names what shut it out."""

    model: str
    score: float
    est_credits: float
    est_seconds: float
    excluded_by: str | None


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """Which model was chosen, by whom, and why."""

    policy: str
    chosen: str | None
    category: str
    reason: str
    candidates: list[Candidate]


class CreditLine(msgspec.Struct, frozen=True):
    """A part of what an answer cost; `estimated` by us where the provider did not say."""

    item: str
    quantity: int
    credits: float
    estimated: bool


class StatusReply(msgspec.Struct, frozen=True, kw_only=True):
    """A generation at one moment. Loop on `state`; `stage` tells what happens inside."""

    success: Literal[True] = True
    generation_id: str
    session_id: str
    type: Literal["chat"] = "chat"
    state: State
    stage: Stage
    progress: int
    poll_interval_hint: int
    queue_position: int | None
    eta_seconds: EtaSeconds | None
    attempt: int
    result: Result
    error: str | None
    failure: Failure | None
    enhancement: Enhancement
    credits_used: float
    credits_breakdown: list[CreditLine]
    routing: Routing | None
    metadata: dict[str, str]
    project_id: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class CancelReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a cancel did; `credits_refunded` is null while the worker is still asked to stop."""

    success: Literal[True] = True
    state: State
    credits_refunded: float | None
    effect: Literal["immediate", "pending"]


class ModelItem(msgspec.Struct, frozen=True, kw_only=True):
    """A model that callers may name. Token rates in credits per 1,000 tokens."""

    identifier: str
    name: str
    provider: str
    types: tuple[str, ...]
    credit: float
    recommended: bool
    summary: str
    smart_select_strengths: dict[str, float]
    input_token_rate: float
    output_token_rate: float
    context_window: int
    max_output_tokens: int
    capabilities: tuple[str, ...]
    estimated_duration_seconds: float
    available: bool


class ModelsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The models of this deployment."""

    success: Literal[True] = True
    models: list[ModelItem]
    count: int


class Pagination(msgspec.Struct, frozen=True):
    """Which part of a list this is."""

    page: int
    limit: int
    total: int
    pages: int


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list."""

    session_id: str
    name: str
    last_activity: str
    created_at: str


class ConversationsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's conversations, last active first."""

    success: Literal[True] = True
    conversations: list[Conversation]
    pagination: Pagination


class ConversationReply(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation."""

    success: Literal[True] = True
    conversation: Conversation


class MessageModel(msgspec.Struct, frozen=True):
    """The model that a message was asked of."""

    identifier: str
    name: str
    provider: str


class MessageItem(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a conversation; `model`, and `citations` if any, only with the assistant's.

    `finish_reason` is there with a completed answer, and tells whether it was cut.

    `media_urls` are the pictures that came with a user's, the others those that an answer has.
    """

    message_id: str
    role: Literal["user", "assistant"]
    content: str
    status: State
    model: MessageModel | UnsetType = UNSET
    media_urls: list[str] | UnsetType = UNSET
    image_urls: list[str] | UnsetType = UNSET
    video_urls: list[str] | UnsetType = UNSET
    audio_urls: list[str] | UnsetType = UNSET
    citations: list[Citation] | UnsetType = UNSET
    finish_reason: FinishReason | UnsetType = UNSET
    created_at: str


class MessagesReply(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation's messages, oldest first."""

    success: Literal[True] = True
    session_id: str
    messages: list[MessageItem]
    pagination: Pagination


class DeletedReply(msgspec.Struct, frozen=True, kw_only=True):
    """It is gone."""

    success: Literal[True] = True
    session_id: str


class Credits(msgspec.Struct, frozen=True):
    """What an account has: `total` is what is available and what is held."""

    total: float
    available: float
    held: float


class CreditsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's credits."""

    success: Literal[True] = True
    credits: Credits


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers, the tokens that they used, and the credits that they cost."""

    generations: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    credits: float


class UsageItem(UsageTotal, frozen=True, kw_only=True):
    """The use of one model, of one day (`YYYY-MM-DD`), or through one API key, by its id."""

    name: str


class AccountUsage(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """An account's use between two days, both included, in UTC."""

    from_: str
    to: str
    by: Literal["model", "day", "key"]
    items: list[UsageItem]
    total: UsageTotal


class UsageReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the account's answers used and cost."""

    success: Literal[True] = True
    usage: AccountUsage


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """Every refusal of this dialect."""

    success: Literal[False] = False
    error: str
    code: str
    request_id: str
