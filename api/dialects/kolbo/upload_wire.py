"""What a batch is made of, field by field: its options, its items; and the reply."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from api.accept import options
from api.dialects.kolbo.batch_wire import BatchId, BatchPollUrl, ResultsUrl
from api.wire import fields
from shared.wire.batch import BatchState

Model = Annotated[
    str | None, Meta(description="An identifier of GET /api/v1/models, or `auto` (the default).")
]
SystemPrompt = Annotated[
    str | None,
    Meta(description="Precedes the message. A message that has one is sent as it is written."),
]


class TextContent(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """A piece of text."""

    text: Annotated[str, Meta(description="The text.")]


class ImageUrl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a picture is."""

    url: Annotated[str, Meta(description="The picture's URL: PNG, JPEG, GIF or WebP.")]


class ImageContent(msgspec.Struct, frozen=True, tag="image_url", forbid_unknown_fields=True):
    """A picture, in a message of the user."""

    image_url: Annotated[ImageUrl, Meta(description="Where it is.")]


class ItemMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant"], Meta(description="Who wrote it.")
    ]
    content: Annotated[
        str | list[TextContent | ImageContent], Meta(description="A text, or texts and pictures.")
    ]


class BatchItemBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item: a message or a conversation to answer. Absent options are those of the batch.

    In JSON lines, each line is one item. An item that is wrong has failed with the reason; the
    others run.
    """

    custom_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=128)] | None,
        Meta(
            description="The item's name in the results, which no other item has: 1 to 128 "
            "characters without control characters. By default the number of its line, or its "
            "place among the items, from 1."
        ),
    ] = None
    message: Annotated[str | None, Meta(description="The message to send to the model.")] = None
    messages: Annotated[
        list[ItemMessage] | None,
        Meta(
            description="A conversation in place of `message`, sent as it is written; the last "
            "message is not the assistant's. A `system_prompt` of its own precedes it, that of the "
            "batch only where the conversation has none."
        ),
    ] = None
    model: Model = None
    system_prompt: SystemPrompt = None
    enhance_prompt: options.EnhancePrompt = None
    web_search: options.WebSearch = None
    deep_think: options.DeepThink = None
    media_urls: options.MediaUrls = None
    project_id: options.ProjectId = None
    max_credits: options.MaxCredits = None
    metadata: options.Metadata | None = None
    max_output_tokens: options.MaxOutputTokens = None
    temperature: options.Temperature = None
    top_p: options.TopP = None
    stop: options.StopTexts = None
    response_format: options.ResponseFormat = None


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a batch; those that items have, too, are for items that do not have them."""

    metadata: options.Metadata | None = None
    max_credits: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000_000)] | None,
        Meta(description="The most that all answers may cost; then the batch pauses."),
    ] = None
    dedupe: Annotated[
        bool | None,
        Meta(
            description="Answer identical items once, and charge once: the first one runs, and the "
            "others share its end. Names and `metadata` may differ."
        ),
    ] = None
    on_invalid: Annotated[
        Literal["fail", "reject"] | None,
        Meta(
            description="What an invalid item does: it has failed and the others run (`fail`, the "
            "default), or nothing is stored (`reject`)."
        ),
    ] = None
    deadline_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=604_800)] | None,
        Meta(description="Seconds after which items without an answer are `expired`."),
    ] = None
    webhook_url: Annotated[
        str | None,
        Meta(description="A URL to which each end and pause is reported by a signed POST."),
    ] = None
    model: Model = None
    system_prompt: SystemPrompt = None
    enhance_prompt: options.EnhancePrompt = None
    web_search: options.WebSearch = None
    deep_think: options.DeepThink = None
    max_output_tokens: options.MaxOutputTokens = None
    temperature: options.Temperature = None
    top_p: options.TopP = None
    stop: options.StopTexts = None
    response_format: options.ResponseFormat = None


class BatchBody(BatchOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch as one JSON document of at most 32 MiB: its items, and options for all of them."""

    items: Annotated[list[BatchItemBody], Meta(description="The items; at least one.")]


class CreateBatchReply(msgspec.Struct, frozen=True, kw_only=True):
    """The receipt: the batch is stored and runs."""

    success: fields.Success = True
    batch_id: BatchId
    state: Annotated[BatchState, Meta(description="`running`, unless the request is a repeat.")]
    total: Annotated[int, Meta(description="How many items it has.")]
    invalid: Annotated[int, Meta(description="How many of them are wrong, and have failed.")]
    errors: Annotated[list[fields.InvalidItem], Meta(description="The first 100 of these.")]
    poll_url: BatchPollUrl
    results_url: ResultsUrl
    poll_interval_hint: fields.PollIntervalHint
