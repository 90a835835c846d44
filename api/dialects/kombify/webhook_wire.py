"""The fields of requests and replies about events and webhooks in the Kombify dialect.

As in `wire`: requests are closed, replies are open.
"""

from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from api.wire import fields
from shared.wire.webhook import DeliveryState, FailureReason

EventType = Literal[
    "generation.completed",
    "generation.failed",
    "generation.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.paused",
    "batch.expired",
    "batch.cancelled",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)


class AccountEventReply(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has happened in the account."""

    id: Annotated[str, Meta(description="The event's id, which is also its place in the log.")]
    type: Annotated[
        str,
        Meta(description="What happened, as in `generation.completed`; later versions have more."),
    ]
    actor: Annotated[
        str | None,
        Meta(description="The id of the API key that asked for it; null where none did."),
    ]
    subject: Annotated[str, Meta(description="The id of what it happened to.")]
    data: Annotated[
        dict[str, Any],
        Meta(
            description="What the type has beside it: `url`, the path at which the subject is "
            "read, null where there is none, and `webhook_url`, where its request had one."
        ),
    ]
    created_at: fields.CreatedAt


class EventsReply(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the account's log."""

    items: Annotated[list[AccountEventReply], Meta(description="Oldest first.")]
    total: Annotated[int, Meta(description="How many events the log has, of all types.")]
    limit: fields.Limit
    next: Annotated[
        str | None,
        Meta(
            description="The `after` of the next request, also where there are no items now; null "
            "while the log is empty and no `after` was sent."
        ),
    ]
    has_more: Annotated[
        bool, Meta(description="Whether the next request can be sent now; else wait a little.")
    ]
    has_gap: Annotated[
        bool,
        Meta(
            description="Whether events after `after` may be missing, because they were older than "
            "the log reaches. The items begin at its oldest event then."
        ),
    ]


class WebhookBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to report which events."""

    url: Annotated[
        str,
        Meta(
            description="Where events are sent by POST: http or https, and a public address unless "
            "the operator allows another."
        ),
    ]
    events: Annotated[
        Annotated[list[EventType], Meta(min_length=1, max_length=32)] | None,
        Meta(description="The types of events to report. When omitted: all there are now."),
    ] = None


class WebhookReply(msgspec.Struct, frozen=True, kw_only=True):
    """The webhook of the account."""

    url: Annotated[str, Meta(description="Where events are sent, in its normal form.")]
    events: Annotated[list[str], Meta(description="The types of events that are reported.")]
    secret: Annotated[
        str | None,
        Meta(description="What verifies signatures. It is shown once, when it is made."),
    ]
    former_secret_valid_until: Annotated[
        fields.Time | None,
        Meta(description="Until when the secret before the last rotation signs, too."),
    ]
    disabled_at: Annotated[
        fields.Time | None,
        Meta(
            description="When the receiver answered 410. Nothing is sent until the webhook is set "
            "again."
        ),
    ]
    created_at: fields.CreatedAt
    updated_at: Annotated[fields.Time, Meta(description="When it was set last, in UTC.")]


class SecretReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's new secret."""

    secret: Annotated[
        str | None,
        Meta(
            description="What verifies signatures from now on. It is shown this once: null where "
            "the same request made it before."
        ),
    ]


class TestReply(msgspec.Struct, frozen=True, kw_only=True):
    """A test event is on its way."""

    event_id: Annotated[str, Meta(description="The event's id in the account's log.")]
    delivery_id: Annotated[str, Meta(description="The id of its delivery.")]


class AttemptReply(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the receiver; without times while it is under way, or if its worker died."""

    number: Annotated[int, Meta(description="From 1.")]
    started_at: Annotated[fields.Time | None, Meta(description="When it began, in UTC.")] = None
    duration_ms: Annotated[int | None, Meta(description="How long the receiver took.")] = None
    status: Annotated[
        int | None, Meta(description="The status of the answer; null where there was none.")
    ] = None
    answer: Annotated[str, Meta(description="The first 1,024 bytes of the answer.")] = ""
    error: Annotated[
        str | None, Meta(description="Why there was no answer, in a sentence for a person.")
    ] = None


class DeliveryReply(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one receiver."""

    id: Annotated[
        str, Meta(description="The id of the delivery, which is the `webhook-id` of every attempt.")
    ]
    event_id: Annotated[str, Meta(description="The event's id in the account's log.")]
    type: Annotated[str, Meta(description="The event's type.")]
    subject: Annotated[str, Meta(description="The id of what the event is about.")]
    url: Annotated[str, Meta(description="The receiver.")]
    state: Annotated[DeliveryState, Meta(description="`pending` until it ends in another.")]
    reason: Annotated[
        FailureReason | None,
        Meta(
            description="Why it failed: the receiver answered 410 (`gone`), the URL must not be "
            "called (`refused`), a day has passed (`too_late`), the webhook was disabled "
            "meanwhile (`disabled`)."
        ),
    ]
    next_attempt_at: Annotated[
        fields.Time | None, Meta(description="When the next attempt is due, in UTC.")
    ]
    created_at: fields.CreatedAt
    finished_at: Annotated[fields.Time | None, Meta(description="When it ended, in UTC.")]
    attempts: Annotated[
        list[AttemptReply],
        Meta(
            description="Every call, oldest first; of a delivery that was replayed often, the last "
            "100. The last ten have the receiver's answers."
        ),
    ]


class DeliveriesReply(msgspec.Struct, frozen=True, kw_only=True):
    """The account's deliveries of the last days."""

    items: Annotated[list[DeliveryReply], Meta(description="This part of the list, newest first.")]
    total: fields.Total
    limit: fields.Limit
    offset: fields.Offset
