"""How the events of a generation are written for the followers of a dialect.

Inside, events are neutral: JSON with a number EPOCH-SEQ, as the Redis stream has them. An encoder
writes them as frames. Most write one frame for each event, under the event's own number, and need
to know no other event. One that folds may write one frame for several events or several for one,
and numbers them its own way.

An encoder is hashable: followers with equal encoders share what it wrote. Its numbers have to
follow from the events alone, in their order, so that a client can continue after any of them in any
process. A number that restarts with each attempt stays right even after the oldest attempts of a
stream were dropped.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol

from typing_extensions import override

from api.follow.event_ids import BEGINNING, EventNumber

# Numbers of one encoder have one length, and grow from frame to frame; () comes before all.
FrameNumber = tuple[int, ...]
# Writes an event; an event that adds nothing gives no bytes.
Write = Callable[[EventNumber, bytes], bytes]


class Frame(NamedTuple):
    """Some bytes of a stream after which a client may continue, and their number."""

    number: FrameNumber
    content: bytes


class Fold(Protocol):
    """The state of a folding encoder in one generation, from its first event on."""

    def add(self, number: EventNumber, event: bytes) -> Sequence[Frame]:
        """Take the next event, and return the frames that are complete with it.

        A `snapshot` replaces all events before it. The end of the generation is the last event.
        """


class EventEncoder(ABC):
    """What the streams of a dialect look like."""

    content_type: str
    # Sent after the end of a stream that is complete.
    tail: bytes = b""
    # Whether its frames and numbers depend on all events from the first one on.
    folds: ClassVar[bool]

    def head(self, _generation: str, _session: str | None, _after: FrameNumber) -> bytes:
        """Return what precedes the events for a client that has all up to a number."""
        return b""

    def remark(self, _text: str) -> bytes:
        """Return a comment, as in a long silence; b"" where the format has none."""
        return b""

    @abstractmethod
    def resume(self, generation: str, after: FrameNumber) -> tuple[EventNumber, Write]:
        """Return the event after which to read, and what writes all frames after a number."""


class OneToOneEncoder(EventEncoder):
    """Writes one frame for each event, which has the event's number."""

    folds = False

    @abstractmethod
    def writer(self, generation: str) -> Write:
        """Return what writes the events of a generation."""

    @override
    def resume(self, generation: str, after: FrameNumber) -> tuple[EventNumber, Write]:
        return EventNumber(*after) if after else BEGINNING, self.writer(generation)


class FoldingEncoder(EventEncoder):
    """Writes frames that may depend on all events before them."""

    folds = True

    @abstractmethod
    def fold(self, generation: str) -> Fold:
        """Return the state before the first event of a generation."""

    @override
    def resume(self, generation: str, after: FrameNumber) -> tuple[EventNumber, Write]:
        fold = self.fold(generation)

        def write(number: EventNumber, event: bytes) -> bytes:
            return b"".join(
                frame.content for frame in fold.add(number, event) if frame.number > after
            )

        return BEGINNING, write
