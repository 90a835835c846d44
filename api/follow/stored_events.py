"""What Redis has of a generation's events: pages of its stream, and the end from its record."""

from typing import Final, NamedTuple

import msgspec

from api.follow import stream_events
from api.follow.event_ids import EventNumber
from api.generation_ref import GenerationRef
from shared.redis import keys
from shared.redis.client import Redis
from shared.stores import generations
from shared.wire import event as events
from shared.wire.generation import Generation

PAGE: Final = 256
Entry = tuple[EventNumber, bytes]

encode = msgspec.json.Encoder().encode


class EventPage(NamedTuple):
    """Some events of a stream; never the end, which may come next.

    `is_first`: certainly no event was before them.
    """

    is_first: bool
    entries: list[Entry]
    last: EventNumber
    has_end: bool


async def entries_after(redis: Redis, ref: GenerationRef, after: EventNumber) -> list[Entry]:
    """Return the next events after a number, the end included; PAGE at most."""
    name, first = keys.EVENTS(*ref), f"({after.epoch}-{after.seq}"
    found = await redis.call("XRANGE", name, first, "+", "COUNT", PAGE)
    return [(EventNumber.of(number), fields[1]) for number, fields in found]


async def read_page(redis: Redis, ref: GenerationRef, after: EventNumber) -> EventPage | None:
    """Return what a stream has after a number, or None."""
    entries = await entries_after(redis, ref, after)
    if not entries:
        return None
    has_end = events.is_end(entries[-1][1])
    before_end = entries[:-1] if has_end else entries
    last = before_end[-1][0] if before_end else after
    return EventPage(entries[0][0].is_first, before_end, last, has_end)


async def recorded_end(
    redis: Redis, ref: GenerationRef, event: bytes, sign: stream_events.Sign
) -> bytes:
    """Return the last event from the generation's record; without a record, as it was published."""
    generation = await generations.find(redis, *ref)
    if generation is None or not generation.is_final:
        return event
    return encode(stream_events.end(generation, sign))


def snapshot(generation: Generation, sign: stream_events.Sign) -> Entry:
    """Return a snapshot, numbered as the last event that it replaces: never as the end."""
    last = EventNumber.of(generation.last_event)
    number = EventNumber(last.epoch, last.seq - 1) if generation.is_final else last
    return number, encode(stream_events.snapshot(generation, sign))
