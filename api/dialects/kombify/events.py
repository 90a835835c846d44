"""The account's log in the Kombify dialect: events, oldest first from a cursor on."""

from typing import Any

from api.dialects.kombify import paging, webhook_wire as wire
from api.endpoints.endpoint import RequestContext
from api.server.responses import Response
from shared.clock import iso
from shared.errors import Code, RequestError
from shared.stores import account_log
from shared.wire import account_event
from shared.wire.account_event import AccountEvent


async def list_events(context: RequestContext) -> Response:
    """GET /events: what has happened since an event, oldest first."""
    limit, _ = paging.limit_and_offset(context)
    after, type_name = context.query.get("after") or None, context.query.get("type") or None
    if after is not None and not account_event.is_cursor(after):
        raise RequestError(
            "The parameter `after` must be the id of an event, or `next` of an earlier page.",
            Code.INVALID_FIELDS,
        )
    if type_name is not None and not account_event.is_type(type_name):
        raise RequestError(
            "The parameter `type` must be a type of event, as in generation.completed.",
            Code.INVALID_FIELDS,
        )
    state, caller = context.state, context.caller
    oldest_kept_ms = state.clock.now_ms() - state.settings.retention.log_seconds * 1000
    # Nothing of a younger account can be older than its log reaches.
    is_young = caller.account.created >= oldest_kept_ms
    found = await account_log.page(
        state.redis,
        caller.root,
        caller.account.id,
        after=after,
        limit=limit,
        type_name=type_name,
        oldest_kept_ms=0 if is_young else oldest_kept_ms,
    )
    return Response(
        wire.EventsReply(
            items=[_event(each) for each in found.events],
            total=found.total,
            limit=limit,
            next=found.next_cursor,
            has_more=found.has_more,
            has_gap=found.has_gap,
        )
    )


def _event(event: AccountEvent) -> wire.AccountEventReply:
    about: dict[str, Any] = {"url": event.path, **event.more}
    return wire.AccountEventReply(
        id=event.id,
        type=event.type,
        actor=event.actor,
        subject=event.subject,
        data=about,
        created_at=iso(event.created),
    )
