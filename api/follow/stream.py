"""One client's stream of a generation's events, from any of them on.

Owns the order: the encoder's head, then what comes next at the client's cursor; exactly one end,
and the encoder's tail. A ping breaks long silences. When the client disconnects, the server shuts
down or the key is revoked, the response ends between two events, so that the client can continue
after the last id.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.requests import Request

from api import errors
from api.follow import cursors, stored_events, stream_events
from api.follow.cursors import Source
from api.follow.encoders import EventEncoder, FrameNumber
from api.follow.event_ids import EventNumber
from api.follow.ring import Rings
from api.follow.stored_events import encode, read_page
from api.follow.subscriber import Subscriber
from api.generation_ref import GenerationRef
from api.guards.identify import Caller
from api.guards.open_waits import OpenWaits
from api.guards.revocations import Revocations
from api.live_fleet import LiveFleet
from api.polling.overdue import CurrentGenerations
from api.server import disconnect
from api.server.responses import EventStream, Response
from shared.errors import UnavailableError
from shared.media.url_signing import UrlSigner
from shared.redis.client import Redis
from shared.wire.generation import Generation

_PING: Final = "ping"
_KEY_ENDED: Final = "the API key was revoked or has expired"
# Redis' clock and ours may differ by this much about a deadline.
_CLOCK_SKEW_SECONDS: Final = 0.02
# Between checks of a generation that should have ended by now.
_RECHECK_SECONDS: Final = 1.0
_SHUTTING_DOWN: Final = "going away; go on after the last id"


class _Following(NamedTuple):
    """What a client follows, which frames it has, and how its dialect writes them."""

    caller: Caller
    ref: GenerationRef
    encoder: EventEncoder
    after: FrameNumber


class StartedGeneration(NamedTuple):
    """A generation that has not ended: its session, and the time left for an answer."""

    session: str | None
    deadline_seconds: float


@dataclass(kw_only=True)
class Streams:
    """The event streams of this process, and what they need of other rooms."""

    redis: Redis
    subscriber: Subscriber
    rings: Rings
    generations: CurrentGenerations
    live_fleet: LiveFleet
    open_waits: OpenWaits
    revocations: Revocations
    url_signer: UrlSigner
    ping_seconds: float

    async def follow(
        self,
        caller: Caller,
        request: Request,
        generation_id: str,
        encoder: EventEncoder,
        after: FrameNumber,
        *,
        started: StartedGeneration | None = None,
    ) -> EventStream | Response:
        """Return the frames of a generation after a number, or 204 when there can be no more.

        The number is one of the encoder's. Of a generation that this request has just `started`,
        the record is not read first.

        Raises:
            RequestError: GENERATION_NOT_FOUND.
            RefusedError: RATE_LIMITED when the account has as many streams open as it may.
            UnavailableError: Redis is away.

        """
        ref = GenerationRef(caller.root, caller.account.id, generation_id)
        following = _Following(caller, ref, encoder, after)
        await self.subscriber.connect()
        if started is None:
            generation = await self.generations.find(ref)
            if generation is None:
                raise errors.unknown_generation()
            if generation.is_final:
                last = EventNumber.of(generation.last_event)
                if not encoder.folds and after == last:
                    return Response(None, status=204)
                return await _begin(encoder, self._ended_events(following, generation))
            started = StartedGeneration(generation.session, _seconds_left(generation))
        return await _begin(encoder, self._live_events(following, request, started))

    async def _ended_events(
        self, following: _Following, generation: Generation
    ) -> AsyncGenerator[bytes, None]:
        """Yield what the Redis stream still has, else a snapshot; then the end."""
        caller, ref, encoder, after = following
        with (
            self.open_waits.hold(caller.account, lambda: None),
            self.revocations.watch(caller.key, lambda: None) as key_use,
        ):
            key_use.check()
            position, write = encoder.resume(ref.id, after)
            # Read before anything is sent: until then the request may still be refused.
            page = await read_page(self.redis, ref, position)
            if page is not None and encoder.folds and not page.is_first:
                page = None
            yield encoder.head(ref.id, generation.session, after)
            while page is not None:
                yield b"".join([write(*entry) for entry in page.entries])
                if key_use.has_ended:
                    yield encoder.remark(_KEY_ENDED)
                    return
                if page.has_end:
                    break
                page = await read_page(self.redis, ref, page.last)
            else:
                yield write(*stored_events.snapshot(generation, self.url_signer.sign_media))
            end = encode(stream_events.end(generation, self.url_signer.sign_media))
            yield write(EventNumber.of(generation.last_event), end) + encoder.tail

    async def _live_events(
        self, following: _Following, request: Request, started: StartedGeneration
    ) -> AsyncGenerator[bytes, None]:
        """Yield events as they are published, until the end."""
        caller, ref, encoder, after = following
        reader = _StreamReader(self.ping_seconds, started.deadline_seconds)
        disconnect.listen(
            request.scope,
            on_disconnect=reader.note_disconnect,
            on_shutdown=reader.note_shutdown,
        )
        with (
            self.open_waits.hold(caller.account, reader.note_shutdown),
            self.revocations.watch(caller.key, reader.wake) as key_use,
            reader,
            self.rings.join(ref, reader) as ring,
        ):
            key_use.check()
            yield encoder.head(ref.id, started.session, after)
            source = Source(self.redis, ref, ring, self.url_signer.sign_media)
            cursor = cursors.cursor(source, encoder, after)
            while not (reader.has_disconnected or reader.is_shutting_down or key_use.has_ended):
                reader.has_events = False
                piece = await cursor.next_frames()
                if piece:
                    reader.note_sent()
                    yield piece
                elif cursor.is_at_end or ring.is_broken:
                    yield encoder.tail if cursor.is_at_end else b""
                    return
                elif not await reader.wait_for_events():
                    # Under another server than ours no signal comes.
                    if await request.is_disconnected():
                        return
                    yield encoder.remark(_PING)
                    ring.reread_if_quiet(self.ping_seconds)
                    await self._end_if_overdue(ref, reader)
            if key_use.has_ended:
                yield encoder.remark(_KEY_ENDED)
            elif reader.is_shutting_down:
                yield encoder.remark(_SHUTTING_DOWN)

    async def _end_if_overdue(self, ref: GenerationRef, reader: "_StreamReader") -> None:
        """End a generation past its deadline, or one that no live worker can end."""
        with suppress(UnavailableError):
            if reader.is_before_deadline and (await self.live_fleet.current()).workers:
                return
            generation = await self.generations.find(ref)
            if generation is not None:
                reader.set_deadline(_seconds_left(generation))


async def _begin(encoder: EventEncoder, pieces: AsyncGenerator[bytes, None]) -> EventStream:
    stream = await EventStream.begin(pieces)
    return stream._replace(content_type=encoder.content_type)


def _seconds_left(generation: Generation) -> float:
    """Return the time until a generation's deadline; infinite without one."""
    if generation.deadline is None:
        return math.inf
    return (generation.deadline - generation.seen) / 1000


class _StreamReader:
    """One client's wait for events: woken by the ring, a ping, a deadline, or its end."""

    def __init__(self, ping_seconds: float, deadline_seconds: float) -> None:
        self.has_disconnected = self.is_shutting_down = self.has_events = False
        self._ping_seconds = ping_seconds
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self.set_deadline(deadline_seconds)
        self._is_ping_due = False
        self._woken: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._seconds_until_ping(), self._on_silence_timer)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def wake(self) -> None:
        """Make the stream read the ring again."""
        self.has_events = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    @property
    def is_before_deadline(self) -> bool:
        """Whether the generation's deadline has not passed yet."""
        return self._loop.time() < self._deadline_at

    def set_deadline(self, seconds: float) -> None:
        """Wake when the deadline has passed, then every second."""
        self._deadline_at = self._loop.time() + seconds
        self._check_at = self._deadline_at + (
            _CLOCK_SKEW_SECONDS if seconds > 0 else _RECHECK_SECONDS
        )

    def note_disconnect(self) -> None:
        """Note that the client has disconnected."""
        self.has_disconnected = True
        self.wake()

    def note_shutdown(self) -> None:
        """Note that the server shuts down, or that the place was evicted."""
        self.is_shutting_down = True
        self.wake()

    def note_sent(self) -> None:
        """Restart the time until the next ping."""
        self._sent_at = self._loop.time()

    async def wait_for_events(self) -> bool:
        """Wait until woken and return True, or False when a ping is due."""
        if not self.has_events:
            self._woken = self._loop.create_future()
            await self._woken
        is_ping_due, self._is_ping_due = self._is_ping_due, False
        return not is_ping_due

    def _on_silence_timer(self) -> None:
        """Ping if the silence was long enough; one timer a silence, however many events come."""
        left = self._seconds_until_ping()
        if left <= 0:
            self._is_ping_due = True
            self.note_sent()
            if self._sent_at >= self._check_at:
                self._check_at = self._sent_at + _RECHECK_SECONDS
            self.wake()
            left = self._seconds_until_ping()
        self._timer = self._loop.call_later(left, self._on_silence_timer)

    def _seconds_until_ping(self) -> float:
        return min(self._sent_at + self._ping_seconds, self._check_at) - self._loop.time()
