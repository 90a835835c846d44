"""Cursors of an encoder that folds: the same numbers at every reading, wherever one begins."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec
import pytest

from api.follow import cursors, ring as rings
from api.follow.cursors import FoldedCursor, Source
from api.follow.encoders import FrameNumber
from api.follow.event_ids import BEGINNING, EventNumber
from api.follow.ring import Ring
from api.follow.stored_events import Entry
from api.generation_ref import GenerationRef
from shared.clock import SystemClock
from shared.redis.client import Argument, Redis, Reply
from shared.stores import generations
from shared.wire import event as events
from shared.wire.generation import Generation
from shared.wire.message import Media
from tests.support import waiting
from tests.support.lines_dialect import ENCODER

_REF: Final = GenerationRef("root:", "ann", "one")
_END: Final = b'{"type":"cancelled"}'


class StoredStream:
    """A connection with one stream and no record."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.reads = 0

    async def call(self, *command: Argument, **_options: object) -> Reply:
        """Answer XRANGE, and that there is no record."""
        await asyncio.sleep(0)  # noqa: TID251  one turn of the loop
        if command[0] == "FCALL_RO":
            return []
        assert command[0] == "XRANGE"
        self.reads += 1
        after = EventNumber.of(str(command[2]).removeprefix("("))
        found = [entry for entry in self.entries if entry[0] > after][: int(command[5])]
        return [(b"%d-%d" % number, [b"e", event]) for number, event in found]


@pytest.fixture
def stream() -> StoredStream:
    return StoredStream()


@pytest.fixture
async def ring(stream: StoredStream) -> Ring:
    return await _loaded(stream)


async def _loaded(stream: StoredStream) -> Ring:
    """Return a ring as another process has it: it has just read the stream."""
    made = Ring(cast("Redis", stream), SystemClock(), _REF, _as_it_is)
    made.on_message(None)
    await waiting.until(lambda: made.is_loaded and made._reading is None)
    return made


def _as_it_is(media: Media) -> Media:
    return media


def _cursor(stream: StoredStream, ring: Ring, after: FrameNumber = ()) -> FoldedCursor:
    source = Source(cast("Redis", stream), _REF, ring, _as_it_is)
    return cast("FoldedCursor", cursors.cursor(source, ENCODER, after))


async def _rest(cursor: cursors.Cursor) -> list[str]:
    """Return all lines that there are now."""
    pieces = []
    while piece := await cursor.next_frames():
        pieces.append(piece.decode())
    return "".join(pieces).splitlines()


def _answer(chance: random.Random, words: int) -> Iterator[Entry]:
    """Yield the events of an answer with attempts, empty lines, and other events between."""
    epoch, seq, length = 1, 0, 0
    for _ in range(words):
        event: Any = events.Delta(chance.choice(("word ", "a\nb", "\n", "\n\n\n", "é", "end.\n")))
        if seq and chance.random() < 0.05:
            epoch, seq = epoch + 1, 0
            length = chance.randint(0, length)
            event = events.Reset(length)
        elif chance.random() < 0.1:
            event = events.StageChanged("generating")
        else:
            length += len(event.text)
        seq += 1
        yield EventNumber(epoch, seq), msgspec.json.encode(event)
    yield EventNumber(epoch, seq + 1), _END


def _publish(stream: StoredStream, ring: Ring, entry: Entry) -> None:
    stream.entries.append(entry)
    ring.on_message(b"%d-%d %b" % (*entry[0], entry[1]))


@pytest.mark.parametrize("seed", range(6))
async def test_lines_have_the_same_numbers_at_every_reading(
    stream: StoredStream, ring: Ring, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """From the first event or any line, in this ring or another, live or from what is stored."""
    monkeypatch.setattr(rings, "BYTES_MAX", 3_000)
    chance = random.Random(seed)
    first, received = _cursor(stream, ring), list[str]()
    late = None
    for count, entry in enumerate(_answer(chance, 200)):
        _publish(stream, ring, entry)
        await waiting.until(lambda: ring._reading is None and ring.last == stream.entries[-1][0])
        if chance.random() < 0.3:
            received += await _rest(first)
        if count == 150:
            assert ring.base > BEGINNING
            late = _cursor(stream, ring)
            received += await _rest(first)
            assert await _rest(late) == received
    received += await _rest(first)
    assert first.is_at_end
    assert late is not None
    late_lines = await _rest(late)
    assert late_lines == received[len(received) - len(late_lines) :]

    _, write = ENCODER.resume(_REF.id, ())
    stored = b"".join(write(*entry) for entry in stream.entries).decode().splitlines()
    assert stored == received
    other = await _loaded(stream)
    for after in chance.sample(range(1, len(received) + 1), 12):
        _, write = ENCODER.resume(_REF.id, (after,))
        assert (
            b"".join(write(*entry) for entry in stream.entries).decode().splitlines()
            == (received[after:])
        )
        for place in (ring, other):
            resumed = _cursor(stream, place, (after,))
            assert await _rest(resumed) == received[after:]
            assert resumed.is_at_end


async def test_followers_share_the_fold_and_read_no_stream(
    stream: StoredStream, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = 0
    fold = type(ENCODER.fold(""))
    add = fold.add

    def counted(self: Any, number: EventNumber, event: bytes) -> Any:  # noqa: ANN401  as it is
        nonlocal folded
        folded += 1
        return add(self, number, event)

    monkeypatch.setattr(fold, "add", counted)
    reads = stream.reads
    followers = [_cursor(stream, ring) for _ in range(50)]
    for seq in range(1, 21):
        _publish(stream, ring, (EventNumber(1, seq), b'{"type":"delta","text":"a\\nb"}'))
        for follower in followers:
            await follower.next_frames()
    assert folded == 20
    assert stream.reads == reads


async def test_a_follower_that_falls_behind_the_ring_goes_on_from_the_stream(
    stream: StoredStream, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "BYTES_MAX", 2_000)
    fast, slow = _cursor(stream, ring), _cursor(stream, ring)
    expected, received, at_five = list[str](), list[str](), 0
    for seq in range(1, 201):
        text = f"{seq}\n" * (seq % 3)
        event = msgspec.json.encode(events.Delta(text))
        _publish(stream, ring, (EventNumber(1, seq), event))
        expected += [f"> {line}" for line in text.splitlines()]
        received += await _rest(fast)
        if seq == 5:
            assert await _rest(slow) == received
            at_five = len(received)
    assert ring.base > EventNumber(1, 5)
    assert received == expected
    assert await _rest(slow) == expected[at_five:]
    # It reads the shared frames again.
    reads = stream.reads
    _publish(stream, ring, (EventNumber(1, 201), b'{"type":"delta","text":"again\\n"}'))
    assert await _rest(slow) == ["> again"]
    assert stream.reads == reads


@pytest.mark.parametrize("after", [(), (1,), (3,)])
async def test_a_stream_without_its_beginning_is_continued_from_the_record(
    stream: StoredStream, ring: Ring, monkeypatch: pytest.MonkeyPatch, after: FrameNumber
) -> None:
    """The numbers are those that the whole stream would give."""
    texts = ["one\n", "two\nthr", "ee\nfo", "ur\n"]
    record = _generation("".join(texts[:3]), "1-3")

    async def find(*_place: object) -> Generation:
        return record

    monkeypatch.setattr(generations, "find", find)
    follower, expected = _cursor(stream, ring, after), ["> one", "> two", "> three", "> four"]
    # What Redis lost, the ring never read; what comes next shows it.
    event = msgspec.json.encode(events.Delta(texts[3]))
    stream.entries.append((EventNumber(1, 4), event))
    ring.on_message(b"1-4 " + event)
    await waiting.until(lambda: ring.last == (1, 4))
    record = msgspec.structs.replace(record, text="".join(texts), last_event="1-4")
    assert not ring.is_whole
    assert await _rest(follower) == expected[sum(after) :]
    _publish(stream, ring, (EventNumber(1, 5), b'{"type":"delta","text":"five\\n"}'))
    assert await _rest(follower) == ["> five"]


async def test_a_stream_whose_beginning_was_dropped_meanwhile_is_continued_from_the_record(
    stream: StoredStream, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rings, "BYTES_MAX", 2_000)
    for seq in range(1, 101):
        event = msgspec.json.encode(events.Delta(f"{seq}\n"))
        _publish(stream, ring, (EventNumber(1, seq), event))
    assert ring.is_whole
    assert ring.base > EventNumber(1, 20)
    text = "".join(f"{seq}\n" for seq in range(1, 101))

    async def find(*_place: object) -> Generation:
        return _generation(text, "1-100")

    monkeypatch.setattr(generations, "find", find)
    del stream.entries[:10]
    follower = _cursor(stream, ring, (15,))
    assert await _rest(follower) == [f"> {seq}" for seq in range(16, 101)]


def _generation(text: str, last_event: str) -> Generation:
    return Generation(
        id="one", session="s", turn=1, lane="interactive", stage="generating", model="m", attempt=1,
        accepted=0, last_event=last_event, text=text,
    )  # fmt: skip


async def test_a_number_that_the_ring_has_yet_to_reach_is_waited_for(
    stream: StoredStream, ring: Ring
) -> None:
    """The client saw more through another process."""
    for seq in (1, 2):
        _publish(stream, ring, (EventNumber(1, seq), b'{"type":"delta","text":"one\\n"}'))
    stream.entries += [
        (EventNumber(1, seq), b'{"type":"delta","text":"two\\n"}') for seq in (3, 4, 5)
    ]
    ahead = _cursor(stream, ring, (4,))
    assert await ahead.next_frames() == b""
    await waiting.until(lambda: ring.last == (1, 5))
    assert await ahead.next_frames() == b"> two\n"
