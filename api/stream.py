"""A generation's events to one follower, as server-sent events, from any of them on.

Owns one follower's way: the first event, then what the ring has after its cursor, the stream where
the ring has forgotten it, a snapshot where the stream has; exactly one end. A ping breaks long
silences. A follower that hangs up, a process that goes away, or a key that is revoked ends the
answer between two events, so that the last number seen is where the next answer begins.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final, NamedTuple

from api import farewell, overdue
from api.endpoint import Answer, Call, Stream
from api.follow import told
from api.follow.ring import BEGINNING, Number, Ring, Where, encode, frame, read_page
from api.state import State
from shared.errors import Code, RequestError, UnavailableError
from shared.stores import generations
from shared.wire.generation import Generation

_FIRST: Final = Number(0, 1)
_PING: Final = b": ping\n\n"
_KEY_ENDED: Final = b": the API key was revoked or has expired\n\n"
# Redis' clock and ours may tell a deadline this much apart.
_MARGIN_SECONDS: Final = 0.02
# At what should have ended by now.
_AGAIN_SECONDS: Final = 1.0
_GOING_AWAY: Final = b": going away; go on after the last id\n\n"


class Begun(NamedTuple):
    """A generation that has not ended: its session, and the time that is left for an answer."""

    session: str
    deadline_seconds: float


async def follow(
    call: Call, generation_id: str, after: Number, *, begun: Begun | None = None
) -> Stream | Answer:
    """Return the events of a generation after a number, or 204 when there can be no more.

    What was `begun` by this request is followed without looking whether it is there.

    Raises:
        RequestError: GENERATION_NOT_FOUND.
        RefusedError: RATE_LIMITED when the account follows as many as it may.
        UnavailableError: Redis is away.

    """
    where = Where(call.caller.root, call.caller.account.id, generation_id)
    await call.state.subscriber.connect()
    if begun is not None:
        return await Stream.begin(_live(call, where, after, begun))
    generation = await overdue.look(call.state, where)
    if generation is None:
        raise RequestError("There is no such generation.", Code.GENERATION_NOT_FOUND)
    if not generation.is_final:
        begun = Begun(generation.session, _seconds_left(generation))
        return await Stream.begin(_live(call, where, after, begun))
    if after == Number.of(generation.last_event):
        return Answer(None, status=204)
    return await Stream.begin(_ended(call, where, after, generation))


async def _ended(
    call: Call, where: Where, after: Number, generation: Generation
) -> AsyncGenerator[bytes, None]:
    """Tell what the stream still has, else a snapshot; then the end."""
    with (
        call.state.places.hold(call.caller.account, lambda: None),
        call.state.revocations.watched(call.caller.key, lambda: None) as use,
    ):
        use.check()
        last = Number.of(generation.last_event)
        # Before anything is sent: until then the request may still be refused.
        page = await read_page(call.state.redis, where, after)
        yield _accepted(where, generation.session, after)
        while page is not None:
            yield page.frames
            if use.has_ended:
                yield _KEY_ENDED
                return
            if page.has_end:
                break
            page = await read_page(call.state.redis, where, page.last)
        else:
            yield _snapshot(call.state, generation)
        yield frame(last, encode(told.end(generation, call.state.seal.signed)))


async def _live(
    call: Call, where: Where, after: Number, begun: Begun
) -> AsyncGenerator[bytes, None]:
    """Tell what comes, as it comes, until the end."""
    state = call.state
    reader = _Reader(state.settings.api.ping_seconds, begun.deadline_seconds)
    farewell.listen(call.request.scope, on_gone=reader.hang_up, on_leave=reader.leave)
    with (
        state.places.hold(call.caller.account, reader.leave),
        state.revocations.watched(call.caller.key, reader.wake) as use,
        reader,
        state.rings.join(where, reader) as ring,
    ):
        use.check()
        yield _accepted(where, begun.session, after)
        cursor = BEGINNING if after.epoch == 0 else after
        while not (reader.is_gone or reader.is_leaving or use.has_ended):
            reader.has_news = False
            piece, cursor = await _next(state, where, ring, cursor)
            if piece:
                reader.note_said()
                yield piece
            elif ring.is_broken or (ring.has_ended and cursor >= ring.last):
                return
            elif not await reader.news():
                # Where there is another server than our edge, nobody tells.
                if await call.request.is_disconnected():
                    return
                yield _PING
                ring.look_if_quiet(state.settings.api.ping_seconds)
                await _tend(state, where, reader)
        if use.has_ended:
            yield _KEY_ENDED
        elif reader.is_leaving:
            yield _GOING_AWAY


async def _next(state: State, where: Where, ring: Ring, cursor: Number) -> tuple[bytes, Number]:
    """Return the next events after a cursor, as many as there are and fit into one write."""
    if not ring.is_loaded:
        return b"", cursor
    if cursor < ring.base:
        page = await read_page(state.redis, where, cursor)
        if page is not None and page.frames:
            return page.frames, page.last
    elif cursor <= ring.last:
        return ring.read(cursor)
    return await _reconcile(state, where, ring, cursor)


async def _reconcile(
    state: State, where: Where, ring: Ring, cursor: Number
) -> tuple[bytes, Number]:
    """Go on for a follower that has seen what is not here, or has not seen what is nowhere."""
    known = ring.last
    generation = await generations.find(state.redis, *where)
    if generation is None or ring.base <= cursor <= ring.last:
        return ring.read(max(cursor, ring.base))
    number = _snapshot_number(generation)
    if known < cursor <= Number.of(generation.last_event):
        if await read_page(state.redis, where, known):
            # It has heard from Redis what the ring has yet to hear.
            ring.look_again()
            return b"", cursor
        number = known
    # Redis has lost one or the other: the follower begins anew from what there is.
    return _snapshot(state, generation), number


async def _tend(state: State, where: Where, reader: "_Reader") -> None:
    """Look at what should have ended by now, or what no worker may be left to end."""
    with suppress(UnavailableError):
        if reader.is_in_time and (await state.fleet()).workers:
            return
        generation = await overdue.look(state, where)
        if generation is not None:
            reader.expect_end(_seconds_left(generation))


def _seconds_left(generation: Generation) -> float:
    """Return the time until a generation's deadline; none where it has ended."""
    if generation.deadline is None:
        return math.inf
    return (generation.deadline - generation.seen) / 1000


def _accepted(where: Where, session: str, after: Number) -> bytes:
    """Return the first event for who begins; for others nothing, which says that they may read."""
    if after >= _FIRST:
        return b""
    return frame(_FIRST, encode(told.accepted(where.id, session)))


def _snapshot(state: State, generation: Generation) -> bytes:
    said = told.snapshot(generation, state.seal.signed)
    return frame(_snapshot_number(generation), encode(said))


def _snapshot_number(generation: Generation) -> Number:
    """Return the number that a snapshot replaces all up to: never the end's."""
    last = Number.of(generation.last_event)
    return Number(last.epoch, last.seq - 1) if generation.is_final else last


class _Reader:
    """One follower: woken by its ring, by silence, at its deadline, and by whoever ends it."""

    def __init__(self, ping_seconds: float, deadline_seconds: float) -> None:
        self.is_gone = self.is_leaving = self.has_news = False
        self._ping_seconds = ping_seconds
        self._loop = asyncio.get_running_loop()
        self._said_at = self._loop.time()
        self.expect_end(deadline_seconds)
        self._is_silent = False
        self._woken: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(self._seconds_of_silence(), self._look_at_silence)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def wake(self) -> None:
        """Have it look again."""
        self.has_news = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    @property
    def is_in_time(self) -> bool:
        """Whether the deadline has yet to pass."""
        return self._loop.time() < self._ends_at

    def expect_end(self, seconds: float) -> None:
        """Have it look once the deadline has passed, and again a second later as long as needed."""
        self._ends_at = self._loop.time() + seconds
        self._looks_at = self._ends_at + (_MARGIN_SECONDS if seconds > 0 else _AGAIN_SECONDS)

    def hang_up(self) -> None:
        """Learn that nobody reads any more."""
        self.is_gone = True
        self.wake()

    def leave(self) -> None:
        """Learn that the process goes away."""
        self.is_leaving = True
        self.wake()

    def note_said(self) -> None:
        """Begin to count the silence anew."""
        self._said_at = self._loop.time()

    async def news(self) -> bool:
        """Wait until it is woken, or until a silence must be broken: then return False."""
        if not self.has_news:
            self._woken = self._loop.create_future()
            await self._woken
        is_silent, self._is_silent = self._is_silent, False
        return not is_silent

    def _look_at_silence(self) -> None:
        """One timer a silence, however much is said in between."""
        left = self._seconds_of_silence()
        if left <= 0:
            self._is_silent = True
            self.note_said()
            if self._said_at >= self._looks_at:
                self._looks_at = self._said_at + _AGAIN_SECONDS
            self.wake()
            left = self._seconds_of_silence()
        self._timer = self._loop.call_later(left, self._look_at_silence)

    def _seconds_of_silence(self) -> float:
        return min(self._said_at + self._ping_seconds, self._looks_at) - self._loop.time()
