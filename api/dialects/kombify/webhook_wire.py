"""The fields of requests and replies about events and webhooks in the Kombify dialect.

As in `wire`: requests are closed, replies are open.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.wire import fields


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
