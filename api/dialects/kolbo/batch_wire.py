"""The fields of what the Kolbo dialect says of batches, and of a line of their results."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from api.dialects.kolbo import wire
from api.wire import fields
from shared.wire.batch import BatchState, ItemState, PauseReason
from shared.wire.event import ToolCall

BatchId = Annotated[str, Meta(description="The batch's id.")]
CustomId = Annotated[
    str, Meta(description="The item's own name in its batch; the number of its line by default.")
]
BatchPollUrl = Annotated[str, Meta(description="The path of the batch.")]
ResultsUrl = Annotated[str, Meta(description="The path of its results, as JSON lines.")]


class ResumeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a paused batch goes on."""

    max_credits: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000_000)] | None,
        Meta(description="The new limit of what the whole batch may cost; absent: as it was."),
    ] = None


class ItemCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many items are where; together they are `total`."""

    waiting: Annotated[int, Meta(description="Have not entered the queue.")]
    open: Annotated[int, Meta(description="Are in the queue, or run.")]
    completed: Annotated[int, Meta(description="Have an answer.")]
    failed: Annotated[int, Meta(description="Have none; lines that are wrong included.")]
    cancelled: Annotated[int, Meta(description="Were ended by a cancel.")]
    expired: Annotated[int, Meta(description="Were ended by the deadline.")]


class BatchCredits(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch costs."""

    used: Annotated[float, Meta(description="The credits charged so far.")]
    held: Annotated[float, Meta(description="The credits held for items in the queue.")]
    forecast: Annotated[
        float | None,
        Meta(
            description="What the whole will cost if the rest costs what the items so far did; "
            "null before the first has an answer."
        ),
    ]
    max: Annotated[float | None, Meta(description="Its limit, if it has one.")]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch at one moment."""

    batch_id: BatchId
    state: Annotated[
        BatchState,
        Meta(
            description="`validating` while its body arrives, then `running` or `paused`, then one "
            "of the other four: `completed` where any item was answered, `failed` where none was."
        ),
    ]
    reason: Annotated[
        PauseReason | None,
        Meta(
            description="Why it is paused: by a `user`, or at `max_credits`, until it is resumed; "
            "for lack of `credits` or of `memory`, until there is some."
        ),
    ]
    cancelling: Annotated[
        bool, Meta(description="Whether it is stopped, and the items that still run are ended.")
    ]
    total: Annotated[int, Meta(description="How many items it has.")]
    invalid: Annotated[int, Meta(description="How many of them are lines that are wrong.")]
    copies: Annotated[
        int,
        Meta(description="With `dedupe`: how many share the answer of an identical earlier item."),
    ]
    counts: Annotated[ItemCounts, Meta(description="How many items are where.")]
    progress: Annotated[int, Meta(description="0 to 100, 100 only at the end.", ge=0, le=100)]
    items_per_second: Annotated[
        float | None,
        Meta(
            description="How many ended in each of the last seconds; over all of its time once it "
            "has ended; null while that is unknown."
        ),
    ]
    eta_seconds: Annotated[
        wire.EtaSeconds | None,
        Meta(
            description="When it may end, by how evenly items end now; null where that cannot be "
            "estimated."
        ),
    ]
    credits: Annotated[BatchCredits, Meta(description="What it costs.")]
    metadata: Annotated[dict[str, str], Meta(description="The `metadata` of the request.")]
    created_at: fields.CreatedAt
    started_at: Annotated[fields.Time | None, Meta(description="When it began to run, if it has.")]
    finished_at: Annotated[fields.Time | None, Meta(description="When it ended, if it has.")]
    deadline_at: Annotated[
        fields.Time | None, Meta(description="When what is left expires, if it has a deadline.")
    ]
    deleted_at: Annotated[
        fields.Time | None,
        Meta(description="When it is deleted with its results; null until it has ended."),
    ]
    poll_interval_hint: fields.PollIntervalHint
    poll_url: BatchPollUrl
    results_url: ResultsUrl
    cancel_url: Annotated[str, Meta(description="The path that cancels the batch, by POST.")]


class BatchReply(Batch, frozen=True, kw_only=True):
    """A batch at one moment."""

    success: fields.Success = True


class BatchesReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's batches."""

    success: fields.Success = True
    batches: Annotated[list[Batch], Meta(description="The newest first.")]
    pagination: Annotated[wire.Pagination, Meta(description="Which part of the list this is.")]


class ItemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an item."""

    content: fields.Content
    reasoning_content: fields.ReasoningContent
    image_urls: fields.ImageUrls
    video_urls: fields.VideoUrls
    audio_urls: fields.AudioUrls
    citations: fields.Citations
    finish_reason: fields.FinishReasonOrNull
    model: Annotated[
        str, Meta(description="The model that was asked for; `auto` where Smart Select chose.")
    ]
    created_at: fields.CreatedAt
    tool_calls: Annotated[
        list[ToolCall] | UnsetType,
        Meta(description="Its calls of tools, as the event `tool_call`; absent where it has none."),
    ] = UNSET


class ResultLine(msgspec.Struct, frozen=True, kw_only=True):
    """An item that has ended: a line of the results."""

    custom_id: CustomId
    line: Annotated[int, Meta(description="Its line in the file that was sent, from 1.")]
    state: Annotated[ItemState, Meta(description="How it ended.")]
    result: Annotated[
        ItemAnswer | None,
        Meta(description="The answer, or what was shown of it; null where nothing was."),
    ]
    failure: Annotated[fields.Failure | None, Meta(description="Why there is no answer.")]
    usage: Annotated[
        wire.TokenCounts | None, Meta(description="What was consumed; null where nothing was.")
    ]
    credits: Annotated[float, Meta(description="The credits that were charged.")]
    model: Annotated[str | None, Meta(description="The model that answered, if one did.")]
    seq: Annotated[
        int | UnsetType,
        Meta(description="With `order=finished`: its place among all ends, for `after_seq`."),
    ] = UNSET
    copy_of: Annotated[
        str | UnsetType,
        Meta(
            description="Of a copy in a batch with `dedupe`: the `custom_id` of the item whose "
            "answer it shares, and which was charged for."
        ),
    ] = UNSET


class BatchDeletedReply(msgspec.Struct, frozen=True, kw_only=True):
    """The batch is deleted."""

    success: fields.Success = True
    batch_id: BatchId
    deleted: Annotated[Literal[True], Meta(description="Always true.")] = True
