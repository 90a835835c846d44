"""Numbers of events, and their ids as callers send them: EPOCH-SEQ, or GENERATION:EPOCH-SEQ.

Owns both forms. A stream that answers a POST uses the second.
"""

import re
from typing import Final, NamedTuple

from shared.errors import Code, RequestError

_ID: Final = re.compile(r"(?:([A-Za-z0-9_-]{1,64}):)?([0-9]{1,9}-[0-9]{1,9})")


class EventNumber(NamedTuple):
    """An event's number: the attempt (epoch) from 1, and the event in it (seq) from 1."""

    epoch: int
    seq: int

    @classmethod
    def of(cls, text: bytes | str) -> "EventNumber":
        """Parse EPOCH-SEQ."""
        epoch, _, seq = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(epoch), int(seq))

    @property
    def is_first(self) -> bool:
        """Whether certainly no event of its generation was before it."""
        return self.epoch == 0 or self == (1, 1)

    def precedes(self, other: "EventNumber") -> bool:
        """Whether no event can lie between the two."""
        if self.epoch == 0:
            return other == (1, 1)
        return other == (self.epoch, self.seq + 1)


BEGINNING: Final = EventNumber(0, 0)


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
