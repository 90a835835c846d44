"""What one encoder wrote of the events that a ring keeps, for all of its followers.

Owns when an event is encoded: once, when the first follower reads it. Both kinds read the ring's
own lists of numbers and events, which grow at the end and lose whole beginnings.
"""

from bisect import bisect_right
from typing import Final

from api.follow.encoders import Fold, FrameNumber, Write
from api.follow.event_ids import EventNumber

# At most this much goes into one write: a slow client buffers no more of ours.
_PIECE_BYTES_MAX: Final = 64 * 1024


class OneToOneFrames:
    """One frame for each kept event, with the event's number."""

    def __init__(self, numbers: list[EventNumber], events: list[bytes], write: Write) -> None:
        self._numbers = numbers
        self._events = events
        self._write = write
        # Of the first events; the others are not encoded yet.
        self._frames: list[bytes] = []

    def read(self, after: EventNumber) -> tuple[bytes, EventNumber]:
        """Return the next frames after a number that is not before the ring, and the last's."""
        numbers, frames = self._numbers, self._frames
        first = after_last = bisect_right(numbers, after)
        kept, size = len(numbers), 0
        while after_last < kept and size < _PIECE_BYTES_MAX:
            if after_last >= len(frames):
                self._encode_to(after_last)
            size += len(frames[after_last])
            after_last += 1
        if first == after_last:
            return b"", after
        return b"".join(frames[first:after_last]), numbers[after_last - 1]

    def drop(self, count: int) -> None:
        """Drop the frames of the oldest events, which are about to be dropped."""
        del self._frames[:count]

    def _encode_to(self, index: int) -> None:
        for place in range(len(self._frames), index + 1):
            self._frames.append(self._write(self._numbers[place], self._events[place]))


class FoldedFrames:
    """The frames of an encoder that folds, with numbers of its own.

    `fold` has all events up to `position`, and `base` is the number of the last frame that these
    gave. So its state is never lost: before the ring drops an event, the fold takes it.
    """

    def __init__(
        self,
        numbers: list[EventNumber],
        events: list[bytes],
        fold: Fold,
        position: EventNumber,
        base: FrameNumber,
    ) -> None:
        self.base = base
        self._event_numbers = numbers
        self._events = events
        self._fold = fold
        self._position = position
        self._numbers: list[FrameNumber] = []
        self._frames: list[bytes] = []
        # The event with which each frame was complete.
        self._origins: list[EventNumber] = []

    @property
    def last(self) -> FrameNumber:
        """The number of the last frame of all kept events."""
        self._fold_new_events()
        return self._numbers[-1] if self._numbers else self.base

    def read(self, after: FrameNumber) -> tuple[bytes, FrameNumber]:
        """Return the next frames after a number not before `base`, and the last one's number."""
        self._fold_new_events()
        first = after_last = bisect_right(self._numbers, after)
        size = 0
        while after_last < len(self._frames) and size < _PIECE_BYTES_MAX:
            size += len(self._frames[after_last])
            after_last += 1
        if first == after_last:
            return b"", after
        return b"".join(self._frames[first:after_last]), self._numbers[after_last - 1]

    def drop(self, count: int) -> None:
        """Drop the frames of the oldest events, which are about to be dropped."""
        self._fold_new_events()
        dropped = bisect_right(self._origins, self._event_numbers[count - 1])
        if dropped:
            self.base = self._numbers[dropped - 1]
        del self._numbers[:dropped], self._frames[:dropped], self._origins[:dropped]

    def _fold_new_events(self) -> None:
        if not self._event_numbers or self._event_numbers[-1] <= self._position:
            return
        for place in range(
            bisect_right(self._event_numbers, self._position), len(self._event_numbers)
        ):
            self._position = self._event_numbers[place]
            for frame in self._fold.add(self._position, self._events[place]):
                self._numbers.append(frame.number)
                self._frames.append(frame.content)
                self._origins.append(self._position)
