"""The ring of a followed generation: what it keeps, what it drops, and when it reads the stream."""

import asyncio
import json
from contextlib import ExitStack
from typing import Any, Final, cast

import pytest

from api.follow import ring as rings, server_sent_events
from api.follow.event_ids import BEGINNING, EventNumber
from api.follow.ring import Ring, Rings
from api.follow.server_sent_events import ServerSentEvents, frame
from api.follow.stored_events import encode
from api.follow.subscriber import Listener, Subscriber
from api.generation_ref import GenerationRef
from api.wire.links import Links
from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.redis.client import Argument, Redis, Reply
from shared.wire import event as events
from shared.wire.message import Media
from tests.support import waiting

_REF: Final = GenerationRef("root:", "ann", "one")
_EVENTS: Final = ServerSentEvents(Links(poll="", cancel="", events=""))


class Stream:
    """A connection with one stream, which counts its reads."""

    def __init__(self) -> None:
        self.entries: list[tuple[EventNumber, bytes]] = []
        self.reads = self.refused = 0
        self.is_away = self.is_gone = False

    def add(self, epoch: int, seq: int, text: str = "x") -> bytes:
        """Append an event, and return its publication."""
        event = b'{"type":"delta","text":"%b"}' % text.encode()
        self.entries.append((EventNumber(epoch, seq), event))
        return b"%d-%d %b" % (epoch, seq, event)

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Answer XRANGE, EXISTS and the read of a record."""
        assert repeat
        await _turn()
        if command[0] == "EXISTS":
            return int(not self.is_gone)
        if command[0] == "FCALL_RO":
            return []
        if command[0] == "XREVRANGE":
            return [(b"%d-%d" % number, [b"e", event]) for number, event in self.entries[-1:]]
        assert command[0] == "XRANGE"
        if self.is_away:
            self.refused += 1
            raise UnavailableError("away")
        self.reads += 1
        after = EventNumber.of(str(command[2]).removeprefix("("))
        found = [entry for entry in self.entries if entry[0] > after][: int(command[5])]
        return [(b"%d-%d" % number, [b"e", event]) for number, event in found]


class Woken:
    """A follower that counts."""

    def __init__(self) -> None:
        self.times = 0

    def wake(self) -> None:
        """Count."""
        self.times += 1


def _as_it_is(media: Media) -> Media:
    return media


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
async def ring(stream: Stream) -> Ring:
    made = Ring(cast("Redis", stream), SystemClock(), _REF, _as_it_is)
    made.on_message(None)
    await _settled(made)
    return made


async def _settled(ring: Ring) -> None:
    await waiting.until(lambda: ring._reading is None)


def _read(ring: Ring, after: EventNumber) -> tuple[bytes, EventNumber]:
    return ring.one_to_one_frames(_EVENTS).read(after)


async def _turn() -> None:
    await asyncio.sleep(0)  # noqa: TID251  one turn of the loop


def _numbers(piece: bytes) -> list[str]:
    return [line[4:].decode() for line in piece.split(b"\n") if line.startswith(b"id: ")]


def test_an_event_is_one_line_for_every_line_splitter() -> None:
    """Many text readers end a line where the SSE specification does not."""
    text = "".join(map(chr, (*range(0x20), 0x7F, 0x85, 0x2028, 0x2029, 0x1F642)))
    for event in (encode(events.Delta(text)), encode(events.ToolCall("c", text, {text: [text]}))):
        framed = frame(EventNumber(1, 1), event)
        name, kind, data, empty = framed.decode().splitlines()
        assert (name, kind.partition(":")[0], empty) == ("id: 1-1", "event", "")
        assert json.loads(data.removeprefix("data: ")) == json.loads(event)


async def test_the_next_event_is_taken_without_a_read(ring: Ring, stream: Stream) -> None:
    reads, follower = stream.reads, Woken()
    ring.followers.add(follower)
    for seq in range(1, 6):
        ring.on_message(stream.add(1, seq))
    assert stream.reads == reads
    assert follower.times == 5
    piece, last = _read(ring, BEGINNING)
    assert _numbers(piece) == ["1-1", "1-2", "1-3", "1-4", "1-5"]
    assert last == (1, 5)
    assert _read(ring, EventNumber(1, 3)) == (
        frame(*stream.entries[3]) + frame(*stream.entries[4]),
        last,
    )
    assert _read(ring, last) == (b"", last)


async def test_followers_in_two_forms_cost_two_encodings(
    ring: Ring, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def counted(*entry: Any) -> bytes:  # noqa: ANN401  as it is
        nonlocal written
        written += 1
        return frame(*entry)

    monkeypatch.setattr(server_sent_events, "frame", counted)
    named = ServerSentEvents(_EVENTS.links, names_generation=True)
    followers = [encoder for encoder in (_EVENTS, named) for _ in range(500)]
    for seq in range(1, 6):
        ring.on_message(stream.add(1, seq))
        for encoder in followers:
            piece, _ = ring.one_to_one_frames(encoder).read(EventNumber(1, seq - 1))
            assert piece.startswith(b"id: one:1-" if encoder == named else b"id: 1-")
    assert written == 10


async def test_a_gap_is_read_from_the_stream(ring: Ring, stream: Stream) -> None:
    ring.on_message(stream.add(1, 1))
    stream.add(1, 2)
    ring.on_message(stream.add(1, 3))
    await _settled(ring)
    assert _numbers(_read(ring, BEGINNING)[0]) == ["1-1", "1-2", "1-3"]


async def test_a_new_attempt_is_read_from_the_stream(ring: Ring, stream: Stream) -> None:
    """The lost event may be the end of the attempt before."""
    ring.on_message(stream.add(1, 1))
    stream.add(1, 2)
    ring.on_message(stream.add(2, 1))
    await _settled(ring)
    assert _numbers(_read(ring, BEGINNING)[0]) == ["1-1", "1-2", "2-1"]


async def test_an_event_published_twice_is_sent_once(ring: Ring, stream: Stream) -> None:
    said = [stream.add(1, seq) for seq in (1, 2)]
    for each in (*said, *said):
        ring.on_message(each)
    await _settled(ring)
    assert _numbers(_read(ring, BEGINNING)[0]) == ["1-1", "1-2"]


async def test_an_event_published_during_a_read_is_not_lost(ring: Ring, stream: Stream) -> None:
    stream.add(1, 1)
    ring.reread()
    await _turn()
    ring.on_message(stream.add(1, 2))
    ring.on_message(stream.add(1, 3))
    await _settled(ring)
    assert _numbers(_read(ring, BEGINNING)[0]) == ["1-1", "1-2", "1-3"]


async def test_it_looks_until_redis_is_back(
    ring: Ring, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "_AGAIN_SECONDS", 0.001)
    stream.is_away = True
    stream.add(1, 1)
    ring.reread()
    await waiting.until(lambda: stream.refused >= 2)
    stream.is_away = False
    await _settled(ring)
    assert ring.last == (1, 1)


async def test_what_is_too_much_is_forgotten_from_the_front(
    ring: Ring, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "BYTES_MAX", 4_000)
    for seq in range(1, 101):
        ring.on_message(stream.add(1, seq, "x" * 100))
    assert BEGINNING < ring.base < ring.last == (1, 100)
    kept = _numbers(_read(ring, ring.base)[0])
    assert kept[0] == f"1-{ring.base.seq + 1}"
    assert kept[-1] == "1-100"
    assert sum(map(len, ring._events)) == ring._bytes <= 4_000
    assert len(ring._events) == len(ring._numbers) == len(kept)


async def test_a_piece_is_bounded(ring: Ring, stream: Stream) -> None:
    for seq in range(1, 41):
        ring.on_message(stream.add(1, seq, "x" * 10_000))
    cursor, pieces = BEGINNING, []
    while (found := _read(ring, cursor))[0]:
        pieces.append(found[0])
        cursor = found[1]
    assert max(map(len, pieces)) < 64 * 1024 + 10_100
    assert _numbers(b"".join(pieces)) == [f"1-{seq}" for seq in range(1, 41)]


async def test_an_end_that_is_only_published_is_an_end(ring: Ring, stream: Stream) -> None:
    """As after a deletion: the stream is gone when the end is published."""
    ring.on_message(stream.add(1, 1))
    stream.entries.clear()
    ring.on_message(b'2-1 {"type":"cancelled"}')
    await _settled(ring)
    assert ring.has_ended
    assert _read(ring, EventNumber(1, 1)) == (
        frame(EventNumber(2, 1), b'{"type":"cancelled"}'),
        EventNumber(2, 1),
    )


async def test_an_end_published_during_a_read_skips_nothing(ring: Ring, stream: Stream) -> None:
    ring.reread()
    await _turn()
    for seq in (1, 2):
        ring.on_message(stream.add(1, seq))
    stream.entries.append((EventNumber(1, 3), b'{"type":"cancelled"}'))
    ring.on_message(b'1-3 {"type":"cancelled"}')
    await _settled(ring)
    assert ring.has_ended
    assert _numbers(_read(ring, BEGINNING)[0]) == ["1-1", "1-2", "1-3"]


async def test_what_is_no_more_is_not_followed_for_ever(ring: Ring, stream: Stream) -> None:
    ring.on_message(stream.add(1, 1))
    ring.reread_if_quiet(3600.0)
    await _settled(ring)
    assert not ring.is_broken
    stream.is_gone = True
    ring.reread_if_quiet(0.0)
    await _settled(ring)
    assert ring.is_broken


class FakeSubscriber:
    """A subscriber that records its listeners."""

    def __init__(self) -> None:
        self.listening: list[Listener] = []

    def add(self, _channel: str, on_message: Listener) -> None:
        """Record a listener."""
        self.listening.append(on_message)

    def remove(self, _channel: str, on_message: Listener) -> None:
        """Forget a listener."""
        self.listening.remove(on_message)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_ring_that_broke_is_joined_by_nobody(stream: Stream, first: int) -> None:
    ear = FakeSubscriber()
    kept = Rings(cast("Redis", stream), cast("Subscriber", ear), SystemClock(), _as_it_is)
    followers = [ExitStack(), ExitStack()]
    broken = followers[0].enter_context(kept.join(_REF, Woken()))
    broken.is_broken = True
    whole = followers[1].enter_context(kept.join(_REF, Woken()))
    assert whole is not broken
    with kept.join(_REF, Woken()) as another:
        assert another is whole
    followers[first].close()
    assert len(ear.listening) == 1
    followers[1 - first].close()
    assert not ear.listening
    with kept.join(_REF, Woken()) as fresh:
        assert fresh not in {broken, whole}
