"""Where one follower is in a generation's events, and what it gets next.

Owns the way back to the ring: a follower that is behind it reads the Redis stream; where neither
has what comes next, it gets a snapshot. A number beyond all that is known means that the ring has
yet to read what the client saw elsewhere, or that Redis has lost it.
"""

from typing import NamedTuple

from api.follow import stored_events
from api.follow.encoders import EventEncoder, FoldingEncoder, FrameNumber, OneToOneEncoder
from api.follow.event_ids import BEGINNING, EventNumber
from api.follow.frames import FoldedFrames
from api.follow.ring import Ring
from api.follow.stored_events import Entry, read_page
from api.follow.stream_events import Sign
from api.generation_ref import GenerationRef
from shared.redis.client import Redis
from shared.stores import generations


class Source(NamedTuple):
    """A generation's events: in the ring, in Redis, and in its record."""

    redis: Redis
    ref: GenerationRef
    ring: Ring
    sign: Sign


class OneToOneCursor:
    """The place of a follower whose frames have the numbers of their events."""

    def __init__(self, source: Source, encoder: OneToOneEncoder, after: FrameNumber) -> None:
        self._redis, self._ref, self._ring, self._sign = source
        self._frames = self._ring.one_to_one_frames(encoder)
        self._write = encoder.writer(self._ref.id)
        self._number = EventNumber(*after) if after >= (1,) else BEGINNING

    @property
    def is_at_end(self) -> bool:
        """Whether the follower has everything, and no more will come."""
        return self._ring.has_ended and self._number >= self._ring.last

    async def next_frames(self) -> bytes:
        """Return the next frames, as many as there are and fit into one write."""
        ring = self._ring
        if self._number is ring.last:
            # Most reads follow one that took everything.
            ring.check_damage()
            return b""
        if not ring.is_loaded:
            return b""
        if self._number < ring.base:
            page = await read_page(self._redis, self._ref, self._number)
            if page is not None and page.entries:
                self._number = page.last
                return b"".join([self._write(*entry) for entry in page.entries])
        elif self._number <= ring.last:
            piece, self._number = self._frames.read(self._number)
            if not piece:
                ring.check_damage()
            return piece
        return await self._reconcile()

    async def _reconcile(self) -> bytes:
        """Continue for a cursor beyond the ring's end, or before all that is still stored."""
        ring, known = self._ring, self._ring.last
        generation = await generations.find(self._redis, *self._ref)
        if generation is None or ring.base <= self._number <= ring.last:
            self._number = max(self._number, ring.base)
            piece, self._number = self._frames.read(self._number)
            if not piece:
                ring.check_damage()
            return piece
        number, snapshot = stored_events.snapshot(generation, self._sign)
        if known < self._number <= EventNumber.of(generation.last_event):
            if await read_page(self._redis, self._ref, known):
                # The client has seen events that the ring has yet to read.
                ring.reread()
                return b""
            self._number = known
        else:
            self._number = number
        # Redis has lost events: the client starts again from what there is.
        return self._write(number, snapshot)


class FoldedCursor:
    """The place of a follower whose encoder folds.

    It reads the frames that all followers share, unless they begin after its number. Then it folds
    the Redis stream from its first event, until it reaches the shared frames or can begin them. In
    the numbers of a client that got a snapshot there may be a gap, so it continues alone.
    """

    def __init__(self, source: Source, encoder: FoldingEncoder, after: FrameNumber) -> None:
        self._redis, self._ref, self._ring, self._sign = source
        self._encoder = encoder
        self._after = after
        self._frames: FoldedFrames | None = None
        self._begin_alone(may_join=True)

    @property
    def is_at_end(self) -> bool:
        """Whether the follower has everything, and no more will come."""
        if not self._ring.has_ended:
            return False
        if self._frames is not None:
            return self._after >= self._frames.last
        return self._position >= self._ring.last

    async def next_frames(self) -> bytes:
        """Return the next frames, as many as there are and fit into one write."""
        if not self._ring.is_loaded:
            return b""
        if self._may_join and not self._ring.is_whole:
            return await self._send_snapshot()
        self._join()
        if self._frames is None:
            piece = await self._read_alone()
            if piece or self._frames is None:
                return piece
        piece, self._after = self._frames.read(self._after)
        if not piece:
            if self._after > self._frames.last and not self._ring.has_ended:
                return await self._reconcile()
            self._ring.check_damage()
        return piece

    def _begin_alone(self, *, may_join: bool) -> None:
        self._frames, self._may_join = None, may_join
        self._fold = self._encoder.fold(self._ref.id)
        # All events up to here are in the fold, and the last frame that they gave.
        self._position: EventNumber = BEGINNING
        self._folded: FrameNumber = ()

    def _join(self) -> None:
        """Read the shared frames from now on, if they have all that is to come."""
        if self._frames is not None and self._after < self._frames.base:
            # It has fallen behind the ring.
            self._begin_alone(may_join=True)
        if self._frames is not None or not self._may_join:
            return
        frames = self._ring.folded_frames(self._encoder)
        if frames is None and self._position >= self._ring.base:
            frames = self._ring.begin_folded_frames(
                self._encoder, self._fold, self._position, self._folded
            )
        if frames is not None and frames.base <= max(self._after, self._folded):
            self._after = max(self._after, self._folded)
            self._frames = frames

    async def _read_alone(self) -> bytes:
        """Fold what comes next, until there is something to send or nothing more to read."""
        piece = b""
        while not piece and self._frames is None:
            if self._position >= self._ring.base:
                entries = self._ring.entries_after(self._position)
                if not entries:
                    self._ring.check_damage()
                    break
            else:
                page = await read_page(self._redis, self._ref, self._position)
                is_torn = self._position == BEGINNING and page is not None and not page.is_first
                if page is None or not page.entries or is_torn:
                    return await self._send_snapshot()
                entries = page.entries
            piece = self._add(entries)
            self._join()
        return piece

    def _add(self, entries: list[Entry]) -> bytes:
        found = [frame for entry in entries for frame in self._fold.add(*entry)]
        self._position = entries[-1][0]
        if found:
            self._folded = found[-1].number
        return b"".join([frame.content for frame in found if frame.number > self._after])

    async def _send_snapshot(self) -> bytes:
        """Fold a snapshot in place of the events that are no longer stored.

        A client that has seen more than Redis has starts again from what there is.
        """
        self._after = max(self._after, self._folded)
        self._begin_alone(may_join=False)
        self._position = self._ring.base
        generation = await generations.find(self._redis, *self._ref)
        if generation is None:
            return b""
        number, snapshot = stored_events.snapshot(generation, self._sign)
        frames = self._fold.add(number, snapshot)
        self._position = max(number, self._ring.base)
        if frames:
            self._folded = frames[-1].number
        if self._folded < self._after:
            self._after = ()
        return b"".join([frame.content for frame in frames if frame.number > self._after])

    async def _reconcile(self) -> bytes:
        """Continue for a client that has a number beyond all that is known."""
        if await read_page(self._redis, self._ref, self._ring.last):
            # The client has seen events that the ring has yet to read.
            self._ring.reread()
            return b""
        return await self._send_snapshot()


Cursor = OneToOneCursor | FoldedCursor


def cursor(source: Source, encoder: EventEncoder, after: FrameNumber) -> Cursor:
    """Return the place of a follower that has all frames up to a number."""
    if isinstance(encoder, OneToOneEncoder):
        return OneToOneCursor(source, encoder, after)
    if isinstance(encoder, FoldingEncoder):
        return FoldedCursor(source, encoder, after)
    raise TypeError(f"{encoder} neither folds nor writes one frame for each event")
