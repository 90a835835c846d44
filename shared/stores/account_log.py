"""The events of an account, oldest first from a cursor on.

Written by the functions that end something, in the same call; only read here.
"""

from typing import Final, NamedTuple

from shared.redis import keys
from shared.redis.client import Connection
from shared.wire import account_event
from shared.wire.account_event import AccountEvent

# Events of one type are searched for among so many in one request.
SEARCHED_MAX: Final = 10_000
_READ_AT_ONCE: Final = 1_000


class EventPage(NamedTuple):
    """A part of the log, and where the next one begins.

    `next_cursor` is the last event that was looked at, None where there is none. `has_gap`: events
    after the reader's cursor were old enough to be removed.
    """

    events: list[AccountEvent]
    total: int
    next_cursor: str | None
    has_more: bool
    has_gap: bool


async def page(  # noqa: PLR0913  each is a part of one question
    redis: Connection,
    root: str,
    account: str,
    *,
    after: str | None,
    limit: int,
    type_name: str | None = None,
    oldest_kept_ms: int = 0,
) -> EventPage:
    """Return at most `limit` events after a cursor, of one type if one is named.

    Events older than `oldest_kept_ms` may have been removed.
    """
    name = keys.ACCOUNT_LOG(root, account)
    total: int = await redis.call("XLEN", name)
    has_gap = after is not None and await _has_gap(redis, name, after, oldest_kept_ms)
    events: list[AccountEvent] = []
    cursor, searched, has_more = after, 0, True
    while has_more and len(events) < limit and searched < SEARCHED_MAX:
        count = limit if type_name is None else _READ_AT_ONCE
        start = "-" if cursor is None else f"({cursor}"
        # One more than is taken shows whether there are more.
        found = await redis.call("XRANGE", name, start, "+", "COUNT", count + 1)
        has_more = len(found) > count
        for id_, fields in found[:count]:
            if len(events) == limit:
                has_more = True
                break
            event = account_event.parse(id_, fields)
            searched, cursor = searched + 1, event.id
            if type_name in {None, event.type}:
                events.append(event)
    return EventPage(events, total, cursor, has_more, has_gap)


async def _has_gap(redis: Connection, name: str, after: str, oldest_kept_ms: int) -> bool:
    """Tell whether events after a cursor may have been removed for their age."""
    if account_event.order(after)[0] >= oldest_kept_ms:
        return False
    first = await redis.call("XRANGE", name, "-", "+", "COUNT", 1)
    return not first or account_event.order(after) < account_event.order(first[0][0].decode())
