"""The last events of one generation, kept once for all its followers in this process.

Owns their order. A published event is taken while numbers are consecutive; after a gap, a new
attempt or a new subscription, the ring reads the Redis stream, which is the record. If the stream
has less than was published, the ring breaks: its followers reconnect and get what is left. Each
follower has its own cursor, and those with equal encoders share the frames. The end is built from
the generation's record, read once for all.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

from api.follow import stream_events
from api.follow.encoders import Fold, FoldingEncoder, FrameNumber, OneToOneEncoder
from api.follow.event_ids import BEGINNING, EventNumber
from api.follow.frames import FoldedFrames, OneToOneFrames
from api.follow.stored_events import PAGE, Entry, entries_after, recorded_end
from api.follow.subscriber import Subscriber
from api.generation_ref import GenerationRef
from shared.clock import Clock
from shared.errors import StoreError, UnavailableError, WrongTypeError
from shared.redis import keys
from shared.redis.client import Redis
from shared.telemetry import logs
from shared.wire import event as events

# Of the kept events; the frames of each encoder that is in use take about as much again.
BYTES_MAX: Final = 512 * 1024
_AGAIN_SECONDS: Final = 0.2


class Follower(Protocol):
    """A client of a ring, woken when there is more to read."""

    def wake(self) -> None:
        """Read again."""


class Ring:
    """The kept events of one generation: all after `base`, up to `last`."""

    def __init__(
        self, redis: Redis, clock: Clock, ref: GenerationRef, sign: stream_events.Sign
    ) -> None:
        self.base = self.last = BEGINNING
        self.has_ended = self.is_broken = self.is_loaded = False
        # Whether nothing was lost before the first event that it has read.
        self.is_whole = True
        self._damage: str | None = None
        self._redis = redis
        self._clock = clock
        self._ref = ref
        self._sign = sign
        self._numbers: list[EventNumber] = []
        self._events: list[bytes] = []
        self._one_to_one: dict[OneToOneEncoder, OneToOneFrames] = {}
        self._folded: dict[FoldingEncoder, FoldedFrames] = {}
        self._bytes = 0
        # Woken at each change.
        self.followers: set[Follower] = set()
        self._reading: asyncio.Task[None] | None = None
        self._is_stale = self._must_check_record = False
        self._published_end: tuple[EventNumber, bytes] | None = None
        self._received_at = clock.monotonic()

    def one_to_one_frames(self, encoder: OneToOneEncoder) -> OneToOneFrames:
        """Return the frames of an encoder that writes one for each event."""
        frames = self._one_to_one.get(encoder)
        if frames is None:
            write = encoder.writer(self._ref.id)
            frames = OneToOneFrames(self._numbers, self._events, write)
            self._one_to_one[encoder] = frames
        return frames

    def folded_frames(self, encoder: FoldingEncoder) -> FoldedFrames | None:
        """Return the frames of an encoder that folds, if some follower has begun them."""
        return self._folded.get(encoder)

    def begin_folded_frames(
        self, encoder: FoldingEncoder, fold: Fold, position: EventNumber, last: FrameNumber
    ) -> FoldedFrames:
        """Let all followers of an encoder share what a fold makes of the events after a position.

        The position is not before `base`; `last` is the number of the last frame up to there.
        """
        frames = FoldedFrames(self._numbers, self._events, fold, position, last)
        self._folded[encoder] = frames
        return frames

    def entries_after(self, number: EventNumber) -> list[Entry]:
        """Return the next events after a number not before `base`."""
        first = bisect_right(self._numbers, number)
        kept = slice(first, first + PAGE)
        return list(zip(self._numbers[kept], self._events[kept], strict=True))

    def check_damage(self) -> None:
        """Raise WrongTypeError if no more can come, because the stream's key was overwritten."""
        if self._damage is not None:
            raise WrongTypeError(self._damage)

    def on_message(self, publication: bytes | None) -> None:
        """Take a published event if it is the next; otherwise read the stream."""
        self._received_at = self._clock.monotonic()
        if publication is None:
            self._must_check_record = self.is_loaded
            self.reread()
            return
        number_text, _, event = publication.partition(b" ")
        number, is_end = EventNumber.of(number_text), events.is_end(event)
        if is_end:
            self._published_end = number, event
        if self._reading is not None or not self.is_loaded or not self.last.precedes(number):
            if number > self.last:
                self.reread()
        elif is_end:
            self._begin(partial(self._end, number, event))
        else:
            self._append(number, event)
            self._wake_all()

    def reread(self) -> None:
        """Read from the stream what has come since `last`."""
        self._is_stale = True
        if self._reading is None and not self.has_ended:
            self._begin(self._read)

    def reread_if_quiet(self, seconds: float) -> None:
        """Read the stream if nothing was published for so long: a publication may be lost."""
        now = self._clock.monotonic()
        if now - self._received_at >= seconds and self._reading is None and not self.has_ended:
            self._received_at = now
            self._begin(self._reread_or_fail)

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    def _begin(self, read: Callable[[], Awaitable[None]]) -> None:
        self._reading = asyncio.create_task(self._read_until_available(read))
        self._reading.add_done_callback(self._finish_read)

    async def _read_until_available(self, read: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await read()
            except UnavailableError:
                await self._clock.sleep(_AGAIN_SECONDS)

    def _finish_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        fault = reading.exception()
        if isinstance(fault, WrongTypeError):
            self._damage = fault.message
        elif fault is not None:
            logs.logger().error("a stream could not be read", exc_info=fault)
        self.is_broken = fault is not None
        self.is_loaded = True
        self._wake_all()
        if self._is_stale and not self.is_broken:
            self.reread()

    async def _reread_or_fail(self) -> None:
        await self._read()
        name = keys.GENERATION(*self._ref)
        if not self.has_ended and not await self._redis.call("EXISTS", name):
            raise StoreError("The record of a generation that is followed is gone.")

    async def _read(self) -> None:
        self._is_stale = False
        if self._must_check_record:
            await self._check_record()
        while entries := await entries_after(self._redis, self._ref, self.last):
            for number, event in entries:
                if events.is_end(event):
                    await self._end(number, event)
                    return
                self._append(number, event)
            if len(entries) < PAGE:
                break
        published_end = self._published_end
        if published_end is not None and published_end[0] > self.last and not self._is_stale:
            # Published before this read began, but not in the stream: the session was deleted,
            # and the stream with it.
            await self._end(*published_end)

    async def _check_record(self) -> None:
        """Check that the stream has all published events: a failover may have lost some."""
        newest = await self._redis.call("XREVRANGE", keys.EVENTS(*self._ref), "+", "-", "COUNT", 1)
        known = EventNumber.of(newest[0][0]) if newest else BEGINNING
        if known < self.last and self._published_end is None:
            raise StoreError("Redis has fewer events of a stream than were published.")
        self._must_check_record = False

    async def _end(self, number: EventNumber, event: bytes) -> None:
        self._append(number, await recorded_end(self._redis, self._ref, event, self._sign))
        self.has_ended = True

    def _append(self, number: EventNumber, event: bytes) -> None:
        if self.last is BEGINNING:
            self.is_whole = number.is_first
        self._numbers.append(number)
        self._events.append(event)
        self._bytes += len(event)
        self.last = number
        if self._bytes > BYTES_MAX:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop the oldest quarter at once, so that it is rarely done."""
        dropped = 0
        while self._bytes > BYTES_MAX * 3 // 4 and dropped < len(self._events) - 1:
            self._bytes -= len(self._events[dropped])
            dropped += 1
        for frames in self._one_to_one.values():
            frames.drop(dropped)
        for folded in self._folded.values():
            folded.drop(dropped)
        self.base = self._numbers[dropped - 1]
        del self._numbers[:dropped]
        del self._events[:dropped]

    def _wake_all(self) -> None:
        for follower in self.followers:
            follower.wake()


class Rings:
    """The rings of all followed generations; one is dropped with its last follower."""

    def __init__(
        self, redis: Redis, subscriber: Subscriber, clock: Clock, sign: stream_events.Sign
    ) -> None:
        self._redis = redis
        self._subscriber = subscriber
        self._clock = clock
        self._sign = sign
        self._open: dict[GenerationRef, Ring] = {}

    @contextmanager
    def join(self, ref: GenerationRef, follower: Follower) -> Iterator[Ring]:
        """Yield the ring of a generation, which wakes the follower from now on."""
        ring = self._open.get(ref)
        if ring is None or ring.is_broken:
            ring = self._open[ref] = Ring(self._redis, self._clock, ref, self._sign)
            self._subscriber.add(keys.events_channel(*ref), ring.on_message)
        ring.followers.add(follower)
        try:
            yield ring
        finally:
            ring.followers.discard(follower)
            if not ring.followers:
                self._end(ref, ring)

    def _end(self, ref: GenerationRef, ring: Ring) -> None:
        ring.close()
        self._subscriber.remove(keys.events_channel(*ref), ring.on_message)
        # Another ring may have replaced a broken one.
        if self._open.get(ref) is ring:
            del self._open[ref]
