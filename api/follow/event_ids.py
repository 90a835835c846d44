"""Event ids as callers read and send them: EPOCH-SEQ, or GENERATION:EPOCH-SEQ.

Owns both forms. A stream that answers a POST uses the second: when that POST is sent again, nothing
else in it names the generation to continue.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final, NamedTuple

from api.follow.ring import BEGINNING, EventNumber
from api.server.responses import EventStream
from shared.errors import Code, RequestError

_ID: Final = re.compile(r"(?:([A-Za-z0-9_-]{1,64}):)?([0-9]{1,9}-[0-9]{1,9})")
_FRAME_START: Final = b"id: "
# An event's data is one line of JSON, so this occurs only between two events.
_NEXT_FRAME: Final = b"\n\nid: "


class EventId(NamedTuple):
    """An event's number, and its generation if the id names one."""

    generation: str | None
    number: EventNumber


def read(text: str) -> EventId:
    """Parse an id. Raises RequestError (INVALID_FIELDS) if it is none."""
    found = _ID.fullmatch(text)
    if found is None:
        raise RequestError(
            "`Last-Event-ID` or `after` must be the id of an event, as in 1-7.",
            Code.INVALID_FIELDS,
        )
    return EventId(found[1], EventNumber.of(found[2]))


def after(text: str | None, generation: str) -> EventNumber:
    """Return the event number after which to follow a generation; without an id, the beginning.

    Raises:
        RequestError: INVALID_FIELDS for an invalid id, or the id of another generation's event.
    """
    if text is None:
        return BEGINNING
    event_id = read(text)
    if event_id.generation not in {None, generation}:
        raise RequestError(
            "`Last-Event-ID` or `after` is the id of another generation's event.",
            Code.INVALID_FIELDS,
        )
    return event_id.number


async def name_generation(stream: EventStream, generation: str) -> EventStream:
    """Return the stream with the generation in each event's id."""
    return await EventStream.begin(_named_pieces(stream, generation.encode() + b":"))


async def _named_pieces(stream: EventStream, prefix: bytes) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream.events) as pieces:
        yield _name(stream.first, prefix)
        async for piece in pieces:
            yield _name(piece, prefix)


def _name(piece: bytes, prefix: bytes) -> bytes:
    """Put the prefix into every id of a piece, which is whole events or one comment."""
    if not piece.startswith(_FRAME_START):
        return piece
    events = piece[len(_FRAME_START) :].replace(_NEXT_FRAME, _NEXT_FRAME + prefix)
    return _FRAME_START + prefix + events
