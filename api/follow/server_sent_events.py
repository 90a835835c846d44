"""Server-sent events, one for each event: its id, its type, and its JSON as one line.

Owns their form. The id of a stream that answers a POST names the generation too: when that POST is
sent again, nothing else in it does.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
from typing_extensions import override

from api.follow import stream_events
from api.follow.encoders import FrameNumber, OneToOneEncoder, Write
from api.follow.event_ids import EventNumber
from api.wire.links import Links
from shared.wire import event as events

MEDIA_TYPE: Final = "text/event-stream"
_ACCEPTED: Final = EventNumber(0, 1)
# Line ends for many text readers, though not in SSE; in JSON they occur only inside strings.
_LINE_ENDS: Final = tuple((mark.encode(), b"\\u%04x" % ord(mark)) for mark in "\x85\u2028\u2029")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class ServerSentEvents(OneToOneEncoder):
    """The encoder; where it `names_generation`, ids are GENERATION:EPOCH-SEQ."""

    links: Links
    names_generation: bool = False

    content_type = f"{MEDIA_TYPE}; charset=utf-8"

    @override
    def writer(self, generation: str) -> Write:
        if not self.names_generation:
            return frame
        prefix = f"{generation}:".encode()
        return lambda number, event: frame(number, event, prefix)

    @override
    def head(self, generation: str, session: str | None, after: FrameNumber) -> bytes:
        """Return the `accepted` event for a client that does not have it."""
        if after >= _ACCEPTED:
            return b""
        accepted = stream_events.accepted(generation, session, self.links)
        return self.writer(generation)(_ACCEPTED, _encode(accepted))

    @override
    def remark(self, text: str) -> bytes:
        return f": {text}\n\n".encode()


def frame(number: EventNumber, event: bytes, id_prefix: bytes = b"") -> bytes:
    """Return one server-sent event; `event` is a line of JSON that begins with its type."""
    if not event.isascii():
        for line_end, escaped in _LINE_ENDS:
            event = event.replace(line_end, escaped)
    return b"id: %b%d-%d\nevent: %b\ndata: %b\n\n" % (
        id_prefix,
        *number,
        events.name_of(event),
        event,
    )
