"""The answer's way out: order, numbers, coalescing, repetition, and what stops it."""

import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from shared.redis import functions
from shared.redis.functions import AppendAsk, Claimed, ReleaseAsk
from shared.wire.event import Delta, Media, Reasoning, Reset, StageChanged, ToolCall
from shared.wire.submission import Lane
from tests.support.redis_functions import KEEP
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, StreamEvent, Ticket, text_of
from tests.worker.lossy_redis import LossyRedis, Trouble
from tests.worker.single_attempts import Hasty
from worker.writer import Writer

_SOON: Final = 0.004
_LATE: Final = 30.0


class Scribe:
    """A writer of a claimed generation, what it told its brake, and what it asked of Redis."""

    def __init__(self, front: Front, ticket: Ticket, claimed: Claimed, flush: float) -> None:
        self.redis = LossyRedis(front.redis, "append")
        self.stops: list[str] = []
        self._front = front
        self._ticket = ticket
        self._claimed = claimed
        self.writer = Writer(
            self.redis,
            claimed,
            clock=Hasty(),
            flush_seconds=flush,
            on_stop=self.stops.append,
        )

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What was asked of Redis, call by call."""
        return self.redis.asked

    async def asks(self, count: int) -> None:
        """Wait until Redis was asked so often."""
        await until(lambda: len(self.asked) >= count)

    async def finish(self) -> AppendAsk | None:
        """Close the writer and append what is left, as the settlement does."""
        rest = await self.writer.close()
        if rest is not None:
            await functions.append(self._front.redis, self._claimed.root, rest)
        return rest

    async def stream_events(self) -> list[StreamEvent]:
        """Return the stream as followers have it."""
        return await self._front.stream_events(self._ticket)

    async def text(self) -> str:
        """Return the text as pollers have it."""
        return (await self._front.poll(self._ticket)).text


async def _scribe(
    front: Front, *, flush: float = _SOON, attempts: int = 1, lane: Lane = "interactive"
) -> Scribe:
    """Return a writer for an attempt: the first, or one after others were handed back."""
    ticket = await front.submit(lane=lane)
    for _ in range(attempts - 1):
        claimed = await front.claim(ticket)
        ask = ReleaseAsk(
            account="ann", id=ticket.id, attempt=claimed.attempt, delay_ms=0, keep=KEEP
        )
        assert await functions.release(front.redis, ticket.root, ask) == "released"
    return Scribe(front, ticket, await front.claim(ticket), flush)


async def test_events_and_text_leave_in_order_and_numbered(front: Front) -> None:
    scribe = await _scribe(front)
    scribe.writer.append_event(StageChanged("generating"), stage="generating")
    for word in ("Two ", "brown "):
        scribe.writer.append_text(word)
    scribe.writer.append_event(StageChanged("generating"))
    scribe.writer.append_text("bears")
    await scribe.finish()
    stream_events = await scribe.stream_events()
    assert [each.event for each in stream_events] == [
        StageChanged("generating"),
        Delta("Two brown "),
        StageChanged("generating"),
        Delta("bears"),
    ]
    assert [(each.epoch, each.seq) for each in stream_events] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert scribe.writer.next_seq() == 5
    assert scribe.writer.text() == await scribe.text() == "Two brown bears"
    assert scribe.stops == []


async def test_reasoning_leaves_in_order_with_the_text_and_is_none_of_it(front: Front) -> None:
    scribe = await _scribe(front, flush=_LATE)
    scribe.writer.expect(100)
    for word in ("Hm, ", "bears. "):
        scribe.writer.append_reasoning(word)
    for word in ("Two ", "brown "):
        scribe.writer.append_text(word)
    scribe.writer.append_reasoning("More?")
    scribe.writer.append_event(Media("image", "https://example.org/bear.png"))
    scribe.writer.append_text("bears")
    await scribe.finish()
    assert [each.event for each in await scribe.stream_events()] == [
        Reasoning("Hm, bears. "),
        Delta("Two brown "),
        Reasoning("More?"),
        Media("image", "https://example.org/bear.png"),
        Delta("bears"),
    ]
    assert scribe.writer.text() == await scribe.text() == "Two brown bears"
    assert scribe.writer.reasoning() == "Hm, bears. More?"
    assert scribe.writer.part_count() == 6
    assert (await front.poll(scribe._ticket)).progress == 31


async def test_reasoning_alone_leaves_at_once_and_is_no_text(front: Front) -> None:
    scribe = await _scribe(front, flush=_LATE)
    scribe.writer.append_reasoning("Hm")
    await until(scribe.stream_events)
    assert await scribe.text() == ""
    assert await scribe.finish() is None
    assert scribe.writer.next_seq() == 2


@pytest.mark.parametrize(
    "show",
    [
        lambda writer: writer.append_text("Two"),
        lambda writer: writer.append_reasoning("Hm"),
        lambda writer: writer.append_event(ToolCall("1", "clock", {"zone": "UTC"})),
    ],
    ids=["text", "reasoning", "tool"],
)
async def test_what_belongs_to_an_answer_has_been_shown_and_a_stage_has_not(
    front: Front, show: Callable[[Writer], None]
) -> None:
    writer = (await _scribe(front)).writer
    writer.append_event(StageChanged("generating"))
    assert not writer.has_shown()
    show(writer)
    assert writer.has_shown()
    await writer.close()


async def test_first_leaves_at_once_and_what_follows_waits_for_the_next_time(front: Front) -> None:
    scribe = await _scribe(front, flush=_LATE)
    scribe.writer.append_text("Two")
    await until(scribe.stream_events)
    for _ in range(100):
        scribe.writer.append_text(" bears")
    assert len(scribe.asked) == 1
    rest = await scribe.finish()
    assert rest is not None
    assert len(rest.events) == 1
    assert await scribe.text() == "Two" + " bears" * 100


async def _stage_is_sent(scribe: Scribe) -> None:
    """Have the change of stage leave alone, as when its window passes without a word."""
    scribe.writer.append_event(StageChanged("generating"), stage="generating")
    assert scribe.writer._timer is not None
    scribe.writer._timer.cancel()
    scribe.writer._flush()


async def test_first_words_leave_at_once_after_a_stage_was_sent(front: Front) -> None:
    scribe = await _scribe(front, flush=_LATE)
    await _stage_is_sent(scribe)
    await until(lambda: scribe.asked and scribe.writer._append_task is None)
    scribe.writer.append_text("Two")
    await scribe.asks(2)
    await until(lambda: scribe.writer._append_task is None)
    scribe.writer.append_text(" bears")
    assert scribe.writer._timer is not None
    assert [len(ask["events"]) for ask in scribe.asked] == [1, 1]
    await scribe.finish()
    assert text_of(await scribe.stream_events()) == "Two bears"


async def test_first_words_that_come_while_a_stage_is_sent_leave_right_behind(front: Front) -> None:
    scribe = await _scribe(front, flush=_LATE)
    await _stage_is_sent(scribe)
    scribe.writer.append_reasoning("Hm")
    await scribe.asks(2)
    await scribe.finish()
    assert [each.event for each in await scribe.stream_events()] == [
        StageChanged("generating"),
        Reasoning("Hm"),
    ]


async def test_words_of_a_batch_wait_for_its_next_window(front: Front) -> None:
    scribe = await _scribe(front, flush=_LATE, lane="batch")
    await _stage_is_sent(scribe)
    await until(lambda: scribe.asked and scribe.writer._append_task is None)
    scribe.writer.append_text("Two")
    rest = await scribe.finish()
    assert rest is not None
    assert len(scribe.asked) == 1


async def test_what_is_written_between_two_flushes_leaves_together(front: Front) -> None:
    scribe = await _scribe(front, flush=0.05)
    scribe.writer.append_text("Two")
    await scribe.asks(1)
    for _ in range(100):
        scribe.writer.append_text(" bears")
    await until(lambda: len(scribe.asked) == 2)
    assert [len(ask["events"]) for ask in scribe.asked] == [1, 1]
    assert await scribe.finish() is None


async def test_nothing_is_sent_while_nothing_is_written(front: Front) -> None:
    scribe = await _scribe(front)
    assert await scribe.finish() is None
    assert scribe.asked == []
    assert scribe.writer.next_seq() == 1


async def test_later_attempt_begins_by_dropping_what_was_told(front: Front) -> None:
    scribe = await _scribe(front, attempts=3)
    scribe.writer.append_text("Two")
    await scribe.finish()
    assert [(each.epoch, each.seq, each.event) for each in await scribe.stream_events()] == [
        (2, 1, Reset(keep=0)),
        (3, 1, Reset(keep=0)),
        (3, 2, Delta("Two")),
    ]


@pytest.mark.parametrize("trouble", ["lost", "unanswered"])
async def test_append_without_a_reply_is_said_again_and_changes_nothing_twice(
    front: Front, trouble: Trouble, system: System
) -> None:
    system.expected.add("waiting for Redis")
    scribe = await _scribe(front)
    scribe.redis.troubles.extend([trouble, trouble])
    scribe.writer.append_text("Two")
    scribe.writer.append_text(" bears")
    await scribe.asks(3)
    assert [ask["seq"] for ask in scribe.asked] == [1, 1, 1]
    await scribe.finish()
    assert [each.event for each in await scribe.stream_events()] == [Delta("Two bears")]
    assert await scribe.text() == "Two bears"
    assert scribe.stops == []


async def test_close_waits_for_what_is_under_way(front: Front, system: System) -> None:
    system.expected.add("waiting for Redis")
    scribe = await _scribe(front)
    scribe.redis.troubles.extend(["lost", "unanswered"])
    scribe.writer.append_text("Two")
    await scribe.asks(1)
    scribe.writer.append_text(" bears")
    await scribe.finish()
    assert text_of(await scribe.stream_events()) == "Two bears"
    assert [each.seq for each in await scribe.stream_events()] == [1, 2]


async def test_refused_token_stops_the_writer_for_good(front: Front) -> None:
    scribe = await _scribe(front)
    ask = ReleaseAsk(account="ann", id=scribe._claimed.id, attempt=1, delay_ms=0, keep=KEEP)
    assert await functions.release(front.redis, scribe._claimed.root, ask) == "released"
    scribe.writer.append_text("Two")
    await until(lambda: scribe.stops)
    scribe.writer.append_text(" bears")
    await scribe.finish()
    assert scribe.stops == ["lost"]
    assert len(scribe.asked) == 1
    assert await scribe.stream_events() == []


async def test_cancel_is_heard_with_the_next_append(front: Front) -> None:
    scribe = await _scribe(front)
    await front.cancel(scribe._ticket)
    scribe.writer.append_text("Two")
    await until(lambda: scribe.stops)
    assert scribe.stops == ["cancel"]
    assert text_of(await scribe.stream_events()) == "Two"
    scribe.writer.append_text(" bears")
    rest = await scribe.finish()
    assert rest is not None
    assert text_of(await scribe.stream_events()) == "Two bears"


async def test_fault_of_an_append_stops_the_attempt_and_close_tells_no_more(
    front: Front, system: System
) -> None:
    system.expected.add("an append failed")
    scribe = await _scribe(front)
    scribe.redis.troubles.append("refused")
    scribe.writer.append_text("Two")
    await until(lambda: scribe.stops)
    assert scribe.stops == ["fault"]
    scribe.writer.append_text(" bears")
    assert await scribe.finish() is None
    assert len(scribe.asked) == 1


async def test_fault_while_closing_is_told_too(front: Front, system: System) -> None:
    system.expected.add("an append failed")
    scribe = await _scribe(front)
    scribe.redis.troubles.append("refused")
    scribe.writer.append_text("Two")
    await scribe.asks(1)
    assert await scribe.writer.close() is None
    assert scribe.stops == ["fault"]


async def test_nothing_leaves_after_the_close(front: Front) -> None:
    scribe = await _scribe(front)
    scribe.writer.append_text("Two")
    await scribe.finish()
    asked = len(scribe.asked)
    scribe.writer.append_text(" bears")
    scribe.writer.append_event(StageChanged("generating"))
    assert scribe.writer._append_task is None
    assert scribe.writer._timer is None
    assert len(scribe.asked) == asked


async def test_progress_never_falls(front: Front) -> None:
    scribe = await _scribe(front)
    for count, expected in enumerate((10, 100, 5, 50), 1):
        scribe.writer.expect(expected)
        scribe.writer.append_text("x")
        await scribe.asks(count)
        await until(lambda: scribe.writer._append_task is None)
    await scribe.finish()
    assert [ask["progress"] for ask in scribe.asked] == [10, 10, 60, 60]
    assert (await front.poll(scribe._ticket)).progress == 60


async def test_whatever_is_lost_on_the_way_nothing_is_lost_doubled_or_out_of_order(
    front: Front, system: System
) -> None:
    system.expected.add("waiting for Redis")
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    scribe = await _scribe(front, flush=0.001)
    said = thought = ""
    for number in range(60):
        if chance.random() < 0.3:
            scribe.redis.troubles.append(chance.choice(["none", "lost", "unanswered"]))
        if chance.random() < 0.1:
            scribe.writer.append_event(StageChanged("generating"))
        if chance.random() < 0.3:
            thought += f"{number}? "
            scribe.writer.append_reasoning(f"{number}? ")
        said += f"{number} "
        scribe.writer.append_text(f"{number} ")
        if chance.random() < 0.5:
            await Hasty().sleep(chance.random())
    await scribe.finish()
    stream_events = await scribe.stream_events()
    assert [each.seq for each in stream_events] == list(range(1, len(stream_events) + 1)), seed
    assert text_of(stream_events) == await scribe.text() == said, seed
    heard = [each.event.text for each in stream_events if isinstance(each.event, Reasoning)]
    assert "".join(heard) == thought, seed
