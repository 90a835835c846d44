"""The rows of the route table that are about events and webhooks."""

from typing import Final

from api.dialects.kombify import paging, webhook_wire as wire
from api.dialects.kombify.events import list_events
from api.endpoints.endpoint import Endpoint, Query

WEBHOOK_ENDPOINTS: Final = (
    Endpoint(
        operation="list_events",
        method="GET",
        path="/events",
        scope="read",
        handler=list_events,
        summary="Follow the events of the account",
        description=(
            "The account's log, oldest first: the end of every generation and batch, as webhooks "
            "report it. A reader that sends `next` of the last reply as `after` misses nothing "
            "and reads nothing twice; it can be away for 30 days, the default of how far the log "
            "reaches back. Items of a batch have no events of their own."
        ),
        replies=wire.EventsReply,
        query=(
            Query("after", "string", "The `next` of the last reply, or the id of an event."),
            Query("type", "string", "Only events of this type, as in generation.completed."),
            paging.PAGING[0],
        ),
    ),
)
