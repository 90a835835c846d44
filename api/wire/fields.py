"""Fields that several replies have, in all dialects, each described once.

A field of a single reply is described there.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.errors import Category, Code
from shared.lifecycle import Stage, State
from shared.wire.batch import BatchState
from shared.wire.message import Citation, FinishReason
from shared.wire.routing import Routing

Success = Annotated[Literal[True], Meta(description="Always true; a refusal has false.")]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
CreatedAt = Annotated[Time, Meta(description="When it was created, in UTC.")]

GenerationId = Annotated[
    str,
    Meta(description="The generation's id, which is also the id of the assistant's message."),
]
SessionId = Annotated[str, Meta(description="The id of the conversation.")]
SessionIdOrNull = Annotated[
    str | None,
    Meta(description="The id of the conversation; null for a generation that has none."),
]
PollUrl = Annotated[str, Meta(description="The path of the generation's status.")]
EventsUrl = Annotated[str, Meta(description="The path of the generation's events, as a stream.")]
CancelUrl = Annotated[str, Meta(description="The path that cancels the generation, by POST.")]
PollIntervalHint = Annotated[
    int, Meta(description="Seconds to wait before the next poll, 1 to 30.", ge=1, le=30)
]
CurrentState = Annotated[
    State, Meta(description="`processing` until it ends in one of the other three states.")
]
CurrentStage = Annotated[
    Stage, Meta(description="The internal stage; finer than `state`, and not to loop on.")
]

Content = Annotated[str, Meta(description="The text.")]
ReasoningContent = Annotated[
    str | None,
    Meta(description="What the model thought before it answered, where the provider shows it."),
]
ImageUrls = Annotated[
    list[str],
    Meta(
        description="Pictures of the answer. A URL that is a path works on this server, without a "
        "key, until the second that its `expires` names; a later poll returns a new one."
    ),
]
VideoUrls = Annotated[list[str], Meta(description="Films of the answer, as `image_urls`.")]
AudioUrls = Annotated[list[str], Meta(description="Sounds of the answer, as `image_urls`.")]
SentMediaUrls = Annotated[
    list[str], Meta(description="The pictures that came with the user's message.")
]
Citations = Annotated[list[Citation], Meta(description="Pages that the answer rests on.")]
# The codes are open: a client must expect others, as of a later version.
ErrorCode = Annotated[
    str,
    Meta(
        description="What is wrong, for a program. Later versions may have more codes.",
        extra_json_schema={"x-extensible-enum": [code.value for code in Code]},
    ),
]
RefusedRequestId = Annotated[str, Meta(description="The request's id, as in `X-Request-ID`.")]
_FINISH_REASON: Final = (
    "Why the model ended its answer: `stop` by itself, `length` at its limit of tokens, "
    "`tool_calls` to call tools, `content_filter` cut by the provider's filter."
)
FinishReasonOrNull = Annotated[
    FinishReason | None, Meta(description=f"{_FINISH_REASON} Null unless the answer is complete.")
]

InputTokens = Annotated[int, Meta(description="Tokens that the model read.")]
CachedInputTokens = Annotated[
    int, Meta(description="The part of `input_tokens` that the provider read from a cache.")
]
CacheWriteTokens = Annotated[
    int, Meta(description="The part of `input_tokens` that the provider wrote to a cache.")
]
OutputTokens = Annotated[int, Meta(description="Tokens of the answer, reasoning included.")]
ReasoningTokens = Annotated[int, Meta(description="The part of `output_tokens` that it thought.")]

Total = Annotated[int, Meta(description="How many there are in all.")]
Limit = Annotated[int, Meta(description="How many at most this part of the list has.")]
Offset = Annotated[int, Meta(description="How many stand before this part of the list.")]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer."""

    message: Annotated[str, Meta(description="What went wrong, in a sentence for a person.")]
    category: Annotated[Category, Meta(description="What kind of failure it is.")]
    code: Annotated[str, Meta(description="The exact fault, for a program.")]
    retryable: Annotated[bool, Meta(description="Whether the same message may succeed later.")]
    severity: Annotated[
        Literal["error", "fatal"],
        Meta(description="`fatal` where something is broken, `error` for all other failures."),
    ]
    provider: Annotated[
        str | None, Meta(description="The provider that failed, where one is to blame.")
    ]


class InvalidItem(msgspec.Struct, frozen=True):
    """An item of a batch that is wrong."""

    line: Annotated[int, Meta(description="Its line, or its place among the items, from 1.")]
    custom_id: Annotated[str, Meta(description="Its name, or the number of its line.")]
    error: Annotated[str, Meta(description="What is wrong, in a sentence for a person.")]


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """Further fields of some refusals."""

    generation_id: Annotated[
        str | UnsetType, Meta(description="SESSION_BUSY: the generation that the session answers.")
    ] = UNSET
    state: Annotated[
        State | BatchState | UnsetType,
        Meta(description="ALREADY_FINISHED: the state that the generation, or the batch, is in."),
    ] = UNSET
    routing: Annotated[
        Routing | UnsetType,
        Meta(description="NO_SUITABLE_MODEL: what excluded each model."),
    ] = UNSET
    tokens: Annotated[
        int | UnsetType,
        Meta(description="CONTEXT_TOO_LONG: the message's and the shortest answer's, estimated."),
    ] = UNSET
    context_window: Annotated[
        int | UnsetType,
        Meta(description="CONTEXT_TOO_LONG: what the largest model has that it could go to."),
    ] = UNSET
    quota: Annotated[
        Literal["sessions", "stored_bytes", "keys", "open_batches", "batch_items", "batch_lines"]
        | UnsetType,
        Meta(
            description="QUOTA_EXCEEDED: what the account has too much of: sessions, or bytes of "
            "the messages, answers, names and metadata that its sessions and batches hold, or API "
            "keys, or batches that have not ended; or what the batch has too many of: items, or "
            "lines, of which it may have twice as many, blank ones included. Deleting sessions, "
            "batches or keys makes room."
        ),
    ] = UNSET
    used: Annotated[
        int | UnsetType, Meta(description="QUOTA_EXCEEDED: how much of it the account has.")
    ] = UNSET
    limit: Annotated[
        int | UnsetType, Meta(description="QUOTA_EXCEEDED: how much of it the tier allows.")
    ] = UNSET
    invalid: Annotated[
        int | UnsetType,
        Meta(description="INVALID_FIELDS of a batch: how many of its items are wrong."),
    ] = UNSET
    errors: Annotated[
        list[InvalidItem] | UnsetType,
        Meta(description="INVALID_FIELDS of a batch: the first 100 of them."),
    ] = UNSET
    id: Annotated[
        str | UnsetType, Meta(description="GENERATION_ERROR: the generation that failed.")
    ] = UNSET
    session_id: Annotated[
        str | UnsetType | None,
        Meta(description="GENERATION_ERROR: the session of that generation, null if it has none."),
    ] = UNSET
    failure: Annotated[
        Failure | UnsetType, Meta(description="GENERATION_ERROR: why it failed.")
    ] = UNSET
