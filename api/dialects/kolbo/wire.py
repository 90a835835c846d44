"""The fields of requests and replies of the Kolbo dialect.

Requests are closed: an unknown field is refused by name, null counts as absent. Replies are open:
later versions may add fields. Times are `YYYY-MM-DDTHH:MM:SSZ`, credits have at most six decimals.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.accept.options import Options, SessionName
from api.wire import fields
from shared.lifecycle import State


class SubmitBody(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message to answer. Fields whose feature is not there are refused when asked for."""

    model: Annotated[
        str | None, Meta(description="An identifier of GET /api/v1/models, or `auto`.")
    ] = None


class RenameBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation's new name."""

    name: SessionName


class SubmitReply(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt: the message is accepted, and where to poll for the answer."""

    success: fields.Success = True
    message_id: fields.GenerationId
    session_id: fields.SessionIdOrNull
    type: Annotated[Literal["chat"], Meta(description="What is being made.")] = "chat"
    model: Annotated[str, Meta(description="The model that was asked for, or `auto`.")]
    poll_url: fields.PollUrl
    poll_interval_hint: fields.PollIntervalHint
    events_url: fields.EventsUrl
    cancel_url: fields.CancelUrl


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, always an object, since clients read it without a check.

    While it is being generated, only `content` grows.
    """

    content: Annotated[str, Meta(description="The answer, or as much of it as there is.")]
    reasoning_content: fields.ReasoningContent = None
    image_urls: fields.ImageUrls = []
    video_urls: fields.VideoUrls = []
    audio_urls: fields.AudioUrls = []
    citations: fields.Citations = []
    finish_reason: fields.FinishReasonOrNull = None
    model: Annotated[
        str, Meta(description="The model that was asked for; `auto` where Smart Select chose.")
    ]
    created_at: fields.CreatedAt
    partial: Annotated[
        bool | UnsetType, Meta(description="True while the answer is being made, absent after.")
    ] = UNSET


class EtaSeconds(msgspec.Struct, frozen=True):
    """Seconds until the end, by how long similar answers took."""

    p50: Annotated[float, Meta(description="Half of such answers had ended by then.")]
    p90: Annotated[float, Meta(description="Nine of ten such answers had ended by then.")]


class Enhancement(msgspec.Struct, frozen=True):
    """What became of the permission to reword the message."""

    applied: Annotated[bool, Meta(description="Whether the message was reworded.")]
    reason: Annotated[str, Meta(description="Why, or why not, in a sentence.")]
    text: Annotated[str | None, Meta(description="What was sent in its place, if it was.")]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was weighed."""

    model: Annotated[str, Meta(description="The model's identifier.")]
    score: Annotated[float, Meta(description="How well it suits the message, from 0 to 1.")]
    est_credits: Annotated[float, Meta(description="The credits that an answer would cost.")]
    est_seconds: Annotated[float, Meta(description="The seconds that an answer would take.")]
    excluded_by: Annotated[
        str | None, Meta(description="The check that excluded it; null where none did.")
    ]


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """Which model was chosen, by whom, and why."""

    policy: Annotated[str, Meta(description="`requested` by the caller, or by `catalogue_order`.")]
    chosen: Annotated[str | None, Meta(description="The chosen model's identifier, if any was.")]
    category: Annotated[str, Meta(description="What kind of message it was taken for.")]
    reason: Annotated[str, Meta(description="Why this model answers, in a sentence.")]
    candidates: Annotated[list[Candidate], Meta(description="The models that were weighed.")]


class CreditLine(msgspec.Struct, frozen=True):
    """A part of what an answer cost."""

    item: Annotated[
        str,
        Meta(
            description="What was used: tokens of the `input`, of the `cached_input` that the "
            "provider read from a cache, of the `cache_write` that it wrote to one, of the "
            "`output`, and of its `reasoning`; `tokens` where rates have changed since; "
            "`web_search`."
        ),
    ]
    quantity: Annotated[int, Meta(description="How many of it.")]
    credits: Annotated[float, Meta(description="What they cost together.")]
    estimated: Annotated[
        bool, Meta(description="Whether Pollux counted, where the provider did not say.")
    ]


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer consumed."""

    input_tokens: fields.InputTokens
    cached_input_tokens: fields.CachedInputTokens
    cache_write_tokens: fields.CacheWriteTokens
    output_tokens: fields.OutputTokens
    reasoning_tokens: fields.ReasoningTokens


class StatusReply(msgspec.Struct, frozen=True, kw_only=True):
    """A generation at one moment. Loop on `state`; `stage` is what happens inside."""

    success: fields.Success = True
    generation_id: fields.GenerationId
    session_id: fields.SessionIdOrNull
    type: Annotated[Literal["chat"], Meta(description="What is being made.")] = "chat"
    state: fields.CurrentState
    stage: fields.CurrentStage
    progress: Annotated[
        int,
        Meta(
            description="0 to 100, never falling within an attempt, 100 at the end.", ge=0, le=100
        ),
    ]
    poll_interval_hint: fields.PollIntervalHint
    queue_position: Annotated[
        int | None,
        Meta(description="How many of the account's own run before it; null once it runs."),
    ]
    eta_seconds: Annotated[
        EtaSeconds | None, Meta(description="When it may end; null where that cannot be estimated.")
    ]
    attempt: Annotated[int, Meta(description="How many times it was started.")]
    result: Annotated[Result, Meta(description="The answer, as far as it is made.")]
    error: Annotated[str | None, Meta(description="Why it failed, in a sentence.")]
    failure: Annotated[fields.Failure | None, Meta(description="Why it failed, in full.")]
    enhancement: Annotated[
        Enhancement, Meta(description="Whether the message was reworded before it was answered.")
    ]
    credits_used: Annotated[float, Meta(description="The credits charged so far.")]
    credits_breakdown: Annotated[
        list[CreditLine], Meta(description="What the charge is made of; the lines add up to it.")
    ]
    usage: Annotated[
        TokenCounts | None, Meta(description="What was consumed; null while it is being made.")
    ]
    routing: Annotated[Routing | None, Meta(description="Which model was chosen, and why.")]
    metadata: Annotated[dict[str, str], Meta(description="The `metadata` of the submission.")]
    project_id: Annotated[str | None, Meta(description="The `project_id` of the submission.")]
    created_at: fields.CreatedAt
    started_at: Annotated[
        fields.Time | None, Meta(description="When a worker first began it, if one has.")
    ]
    finished_at: Annotated[fields.Time | None, Meta(description="When it ended, if it has.")]


class CancelReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a cancel did."""

    success: fields.Success = True
    state: fields.CurrentState
    credits_refunded: Annotated[
        float | None,
        Meta(description="Credits given back; null while the worker is still asked to stop."),
    ]
    effect: Annotated[
        Literal["immediate", "pending"],
        Meta(description="`pending` until the worker that runs it has stopped."),
    ]


class ModelItem(msgspec.Struct, frozen=True, kw_only=True):
    """A model that callers may name."""

    identifier: Annotated[str, Meta(description="What a submission's `model` names it by.")]
    name: Annotated[str, Meta(description="Its name for people.")]
    provider: Annotated[str, Meta(description="The provider's name for people.")]
    types: Annotated[tuple[str, ...], Meta(description="What it makes, as in `chat`.")]
    credit: Annotated[float, Meta(description="The credits that a typical answer costs.")]
    recommended: Annotated[bool, Meta(description="Whether the operator recommends it.")]
    summary: Annotated[str, Meta(description="What it is good for, in a sentence.")]
    smart_select_strengths: Annotated[
        dict[str, float], Meta(description="How good it is at each category, from 0 to 1.")
    ]
    input_token_rate: Annotated[float, Meta(description="Credits per 1,000 tokens it reads.")]
    output_token_rate: Annotated[float, Meta(description="Credits per 1,000 tokens it writes.")]
    context_window: Annotated[int, Meta(description="The most tokens it reads and writes.")]
    max_output_tokens: Annotated[int, Meta(description="The most tokens of one answer.")]
    capabilities: Annotated[
        tuple[str, ...], Meta(description="What it can beyond text, as in `vision`.")
    ]
    estimated_duration_seconds: Annotated[
        float, Meta(description="The seconds that a typical answer takes.")
    ]
    available: Annotated[bool, Meta(description="Whether a live worker serves it now.")]


class ModelsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The models of this deployment."""

    success: fields.Success = True
    models: Annotated[list[ModelItem], Meta(description="In the order of the catalogue.")]
    count: Annotated[int, Meta(description="How many models are listed.")]


class Pagination(msgspec.Struct, frozen=True):
    """Which part of a list this is."""

    page: Annotated[int, Meta(description="The number of this page, from 1.")]
    limit: Annotated[int, Meta(description="How many at most a page has.")]
    total: fields.Total
    pages: Annotated[int, Meta(description="How many pages there are.")]


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list."""

    session_id: fields.SessionId
    name: Annotated[str, Meta(description="Its name for people.")]
    last_activity: Annotated[fields.Time, Meta(description="When a message last came.")]
    created_at: fields.CreatedAt


class ConversationsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's conversations."""

    success: fields.Success = True
    conversations: Annotated[list[Conversation], Meta(description="Last active first.")]
    pagination: Annotated[Pagination, Meta(description="Which part of the list this is.")]


class ConversationReply(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation."""

    success: fields.Success = True
    conversation: Annotated[Conversation, Meta(description="The conversation as it is now.")]


class MessageModel(msgspec.Struct, frozen=True):
    """The model that a message was asked of."""

    identifier: Annotated[str, Meta(description="Its identifier, or `auto`.")]
    name: Annotated[str, Meta(description="Its name for people, when it answered.")]
    provider: Annotated[str, Meta(description="Its provider's name for people.")]


class MessageItem(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a conversation: the user's or the assistant's."""

    message_id: Annotated[
        str, Meta(description="The message's id; an assistant's is the generation's id.")
    ]
    role: Annotated[Literal["user", "assistant"], Meta(description="Who wrote it.")]
    content: fields.Content
    status: Annotated[State, Meta(description="Always `completed` for the user's.")]
    model: Annotated[MessageModel | UnsetType, Meta(description="Only with the assistant's.")] = (
        UNSET
    )
    media_urls: fields.SentMediaUrls | UnsetType = UNSET
    image_urls: fields.ImageUrls | UnsetType = UNSET
    video_urls: fields.VideoUrls | UnsetType = UNSET
    audio_urls: fields.AudioUrls | UnsetType = UNSET
    citations: fields.Citations | UnsetType = UNSET
    finish_reason: fields.FinishReasonOrNull | UnsetType = UNSET
    created_at: fields.CreatedAt


class MessagesReply(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation's messages."""

    success: fields.Success = True
    session_id: fields.SessionId
    messages: Annotated[list[MessageItem], Meta(description="Oldest first, two a turn.")]
    pagination: Annotated[Pagination, Meta(description="Which part of the list this is.")]


class DeletedReply(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation is deleted."""

    success: fields.Success = True
    session_id: fields.SessionId


class Credits(msgspec.Struct, frozen=True):
    """What an account has."""

    total: Annotated[float, Meta(description="What is available and what is held.")]
    available: Annotated[float, Meta(description="What new messages may cost.")]
    held: Annotated[float, Meta(description="What is set aside for answers under way.")]


class CreditsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's credits."""

    success: fields.Success = True
    credits: Annotated[Credits, Meta(description="What the account has now.")]


class UsageTotal(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers, the tokens that they used, and the credits that they cost."""

    generations: Annotated[int, Meta(description="How many answers were made.")]
    input_tokens: fields.InputTokens
    cached_input_tokens: fields.CachedInputTokens
    cache_write_tokens: fields.CacheWriteTokens
    output_tokens: fields.OutputTokens
    reasoning_tokens: fields.ReasoningTokens
    credits: Annotated[float, Meta(description="The credits that were charged.")]


class UsageItem(UsageTotal, frozen=True, kw_only=True):
    """The use of one model, of one day, or through one API key."""

    name: Annotated[
        str, Meta(description="The model's identifier, the day `YYYY-MM-DD`, or the key's id.")
    ]


class AccountUsage(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """An account's use between two days, both included, in UTC."""

    from_: Annotated[str, Meta(description="The first day, `YYYY-MM-DD`.")]
    to: Annotated[str, Meta(description="The last day, `YYYY-MM-DD`.")]
    by: Annotated[Literal["model", "day", "key"], Meta(description="What an item stands for.")]
    items: Annotated[list[UsageItem], Meta(description="The use by model, day or key.")]
    total: Annotated[UsageTotal, Meta(description="The sum of all items.")]


class UsageReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the account's answers used and cost."""

    success: fields.Success = True
    usage: Annotated[AccountUsage, Meta(description="The use in these days.")]
