"""One client's server-sent events of a generation, from any event on.

Owns the order: the `accepted` event, then what the ring has after the client's cursor, what only
the Redis stream still has, or a snapshot where that is gone; exactly one end. A ping breaks long
silences. When the client disconnects, the server shuts down or the key is revoked, the response
ends between two events, so that the client can continue after the last id.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from starlette.requests import Request

from api import errors
from api.follow import stream_events
from api.follow.ring import BEGINNING, EventNumber, Ring, Rings, encode, frame, read_page
from api.follow.subscriber import Subscriber
from api.generation_ref import GenerationRef
from api.guards.identify import Caller
from api.guards.open_waits import OpenWaits
from api.guards.revocations import Revocations
from api.live_fleet import LiveFleet
from api.polling.overdue import CurrentGenerations
from api.server import disconnect
from api.server.responses import EventStream, Response
from api.wire.links import Links
from shared.errors import UnavailableError
from shared.media.url_signing import UrlSigner
from shared.redis.client import Redis
from shared.stores import generations
from shared.wire.generation import Generation

_FIRST: Final = EventNumber(0, 1)
_PING: Final = b": ping\n\n"
_KEY_ENDED: Final = b": the API key was revoked or has expired\n\n"
# Redis' clock and ours may differ by this much about a deadline.
_CLOCK_SKEW_SECONDS: Final = 0.02
# Between checks of a generation that should have ended by now.
_RECHECK_SECONDS: Final = 1.0
_SHUTTING_DOWN: Final = b": going away; go on after the last id\n\n"


class _Following(NamedTuple):
    """What a client follows, from which event on, and the links that its dialect names."""

    caller: Caller
    ref: GenerationRef
    after: EventNumber
    links: Links


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
        after: EventNumber,
        links: Links,
        *,
        started: StartedGeneration | None = None,
    ) -> EventStream | Response:
        """Return the events of a generation after a number, or 204 when there can be no more.

        Of a generation that this request has just `started`, the record is not read first.

        Raises:
            RequestError: GENERATION_NOT_FOUND.
            RefusedError: RATE_LIMITED when the account has as many streams open as it may.
            UnavailableError: Redis is away.

        """
        ref = GenerationRef(caller.root, caller.account.id, generation_id)
        following = _Following(caller, ref, after, links)
        await self.subscriber.connect()
        if started is None:
            generation = await self.generations.find(ref)
            if generation is None:
                raise errors.unknown_generation()
            if generation.is_final:
                if after == EventNumber.of(generation.last_event):
                    return Response(None, status=204)
                return await EventStream.begin(self._ended_events(following, generation))
            started = StartedGeneration(generation.session, _seconds_left(generation))
        return await EventStream.begin(self._live_events(following, request, started))

    async def _ended_events(
        self, following: _Following, generation: Generation
    ) -> AsyncGenerator[bytes, None]:
        """Yield what the Redis stream still has, else a snapshot; then the end."""
        caller, ref, after, _ = following
        with (
            self.open_waits.hold(caller.account, lambda: None),
            self.revocations.watch(caller.key, lambda: None) as key_use,
        ):
            key_use.check()
            last = EventNumber.of(generation.last_event)
            # Read before anything is sent: until then the request may still be refused.
            page = await read_page(self.redis, ref, after)
            yield _accepted_frame(following, generation.session)
            while page is not None:
                yield page.frames
                if key_use.has_ended:
                    yield _KEY_ENDED
                    return
                if page.has_end:
                    break
                page = await read_page(self.redis, ref, page.last)
            else:
                yield self._snapshot(generation)
            yield frame(last, encode(stream_events.end(generation, self.url_signer.sign_media)))

    async def _live_events(
        self, following: _Following, request: Request, started: StartedGeneration
    ) -> AsyncGenerator[bytes, None]:
        """Yield events as they are published, until the end."""
        caller, ref, after, _ = following
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
            yield _accepted_frame(following, started.session)
            cursor = BEGINNING if after.epoch == 0 else after
            while not (reader.has_disconnected or reader.is_shutting_down or key_use.has_ended):
                reader.has_events = False
                piece, cursor = await self._next_events(ref, ring, cursor)
                if piece:
                    reader.note_sent()
                    yield piece
                elif ring.is_broken or (ring.has_ended and cursor >= ring.last):
                    return
                elif not await reader.wait_for_events():
                    # Under another server than ours no signal comes.
                    if await request.is_disconnected():
                        return
                    yield _PING
                    ring.reread_if_quiet(self.ping_seconds)
                    await self._end_if_overdue(ref, reader)
            if key_use.has_ended:
                yield _KEY_ENDED
            elif reader.is_shutting_down:
                yield _SHUTTING_DOWN

    async def _next_events(
        self, ref: GenerationRef, ring: Ring, cursor: EventNumber
    ) -> tuple[bytes, EventNumber]:
        """Return the next events after a cursor, as many as there are and fit into one write."""
        if not ring.is_loaded:
            return b"", cursor
        if cursor < ring.base:
            page = await read_page(self.redis, ref, cursor)
            if page is not None and page.frames:
                return page.frames, page.last
        elif cursor <= ring.last:
            return ring.read(cursor)
        return await self._reconcile(ref, ring, cursor)

    async def _reconcile(
        self, ref: GenerationRef, ring: Ring, cursor: EventNumber
    ) -> tuple[bytes, EventNumber]:
        """Continue for a cursor beyond the ring's end, or before all that is still stored."""
        known = ring.last
        generation = await generations.find(self.redis, *ref)
        if generation is None or ring.base <= cursor <= ring.last:
            return ring.read(max(cursor, ring.base))
        number = _snapshot_number(generation)
        if known < cursor <= EventNumber.of(generation.last_event):
            if await read_page(self.redis, ref, known):
                # The client has seen events that the ring has yet to read.
                ring.reread()
                return b"", cursor
            number = known
        # Redis has lost events: the client starts again from what there is.
        return self._snapshot(generation), number

    async def _end_if_overdue(self, ref: GenerationRef, reader: "_StreamReader") -> None:
        """End a generation past its deadline, or one that no live worker can end."""
        with suppress(UnavailableError):
            if reader.is_before_deadline and (await self.live_fleet.current()).workers:
                return
            generation = await self.generations.find(ref)
            if generation is not None:
                reader.set_deadline(_seconds_left(generation))

    def _snapshot(self, generation: Generation) -> bytes:
        event = stream_events.snapshot(generation, self.url_signer.sign_media)
        return frame(_snapshot_number(generation), encode(event))


def _seconds_left(generation: Generation) -> float:
    """Return the time until a generation's deadline; infinite without one."""
    if generation.deadline is None:
        return math.inf
    return (generation.deadline - generation.seen) / 1000


def _accepted_frame(following: _Following, session: str | None) -> bytes:
    """Return the `accepted` event for a client at the beginning; else an empty piece."""
    if following.after >= _FIRST:
        return b""
    accepted = stream_events.accepted(following.ref.id, session, following.links)
    return frame(_FIRST, encode(accepted))


def _snapshot_number(generation: Generation) -> EventNumber:
    """Return the number of the last event that a snapshot replaces: never the end's."""
    last = EventNumber.of(generation.last_event)
    return EventNumber(last.epoch, last.seq - 1) if generation.is_final else last


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
