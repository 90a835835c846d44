"""The writer: order, sequence numbers, coalescing, repeated appends, and what stops it."""

import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import AppendAsk, Claimed, ReleaseAsk
from shared.wire.event import Delta, Media, Reasoning, Reset, StageChanged, ToolCall
from shared.wire.submission import Lane
from tests.support.redis_functions import KEEP
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, StreamEvent, Ticket, text_of
from tests.worker.lossy_redis import LossyRedis, Trouble
from tests.worker.single_attempts import ImpatientClock
from worker.writer import Writer

_SOON: Final = 0.004
_LATE: Final = 30.0


class WriterRecorder:
    """A writer of a claimed generation; records its stop reasons and its Redis calls."""

    def __init__(self, front: Front, ticket: Ticket, claimed: Claimed, flush: float) -> None:
        self.redis = LossyRedis(front.redis, "append")
        self.stops: list[str] = []
        self._front = front
        self._ticket = ticket
        self._claimed = claimed
        self.writer = Writer(
            self.redis,
            claimed,
            clock=ImpatientClock(),
            flush_seconds=flush,
            on_stop=self.stops.append,
        )

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The recorded Redis calls."""
        return self.redis.asked

    async def asks(self, count: int) -> None:
        """Wait until so many Redis calls were made."""
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


async def _recorder(
    front: Front, *, flush: float = _SOON, attempts: int = 1, lane: Lane = "interactive"
) -> WriterRecorder:
    """Return a writer for an attempt: the first, or one after others were handed back."""
    ticket = await front.submit(lane=lane)
    for _ in range(attempts - 1):
        claimed = await front.claim(ticket)
        ask = ReleaseAsk(
            account="ann", id=ticket.id, attempt=claimed.attempt, delay_ms=0, keep=KEEP
        )
        assert await functions.release(front.redis, ticket.root, ask) == "released"
    return WriterRecorder(front, ticket, await front.claim(ticket), flush)


async def test_events_and_text_leave_in_order_and_numbered(front: Front) -> None:
    recorder = await _recorder(front)
    recorder.writer.append_event(StageChanged("generating"), stage="generating")
    for word in ("Two ", "brown "):
        recorder.writer.append_text(word)
    recorder.writer.append_event(StageChanged("generating"))
    recorder.writer.append_text("bears")
    await recorder.finish()
    stream_events = await recorder.stream_events()
    assert [each.event for each in stream_events] == [
        StageChanged("generating"),
        Delta("Two brown "),
        StageChanged("generating"),
        Delta("bears"),
    ]
    assert [(each.epoch, each.seq) for each in stream_events] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert recorder.writer.next_seq() == 5
    assert recorder.writer.text() == await recorder.text() == "Two brown bears"
    assert recorder.stops == []


async def test_reasoning_leaves_in_order_with_the_text_and_is_none_of_it(front: Front) -> None:
    recorder = await _recorder(front, flush=_LATE)
    recorder.writer.expect(100)
    for word in ("Hm, ", "bears. "):
        recorder.writer.append_reasoning(word)
    for word in ("Two ", "brown "):
        recorder.writer.append_text(word)
    recorder.writer.append_reasoning("More?")
    recorder.writer.append_event(Media("image", "https://example.org/bear.png"))
    recorder.writer.append_text("bears")
    await recorder.finish()
    assert [each.event for each in await recorder.stream_events()] == [
        Reasoning("Hm, bears. "),
        Delta("Two brown "),
        Reasoning("More?"),
        Media("image", "https://example.org/bear.png"),
        Delta("bears"),
    ]
    assert recorder.writer.text() == await recorder.text() == "Two brown bears"
    assert recorder.writer.reasoning() == "Hm, bears. More?"
    assert recorder.writer.part_count() == 6
    assert (await front.poll(recorder._ticket)).progress == 31


async def test_reasoning_alone_leaves_at_once_and_is_no_text(front: Front) -> None:
    recorder = await _recorder(front, flush=_LATE)
    recorder.writer.append_reasoning("Hm")
    await until(recorder.stream_events)
    assert await recorder.text() == ""
    assert await recorder.finish() is None
    assert recorder.writer.next_seq() == 2


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
    writer = (await _recorder(front)).writer
    writer.append_event(StageChanged("generating"))
    assert not writer.has_shown()
    show(writer)
    assert writer.has_shown()
    await writer.close()


async def test_first_leaves_at_once_and_what_follows_waits_for_the_next_time(front: Front) -> None:
    recorder = await _recorder(front, flush=_LATE)
    recorder.writer.append_text("Two")
    await until(recorder.stream_events)
    for _ in range(100):
        recorder.writer.append_text(" bears")
    assert len(recorder.asked) == 1
    rest = await recorder.finish()
    assert rest is not None
    assert len(rest.events) == 1
    assert await recorder.text() == "Two" + " bears" * 100


async def _stage_is_sent(recorder: WriterRecorder) -> None:
    """Have the change of stage leave alone, as when its window passes without a word."""
    recorder.writer.append_event(StageChanged("generating"), stage="generating")
    assert recorder.writer._timer is not None
    recorder.writer._timer.cancel()
    recorder.writer._flush()


async def test_first_words_leave_at_once_after_a_stage_was_sent(front: Front) -> None:
    recorder = await _recorder(front, flush=_LATE)
    await _stage_is_sent(recorder)
    await until(lambda: recorder.asked and recorder.writer._append is None)
    recorder.writer.append_text("Two")
    await recorder.asks(2)
    await until(lambda: recorder.writer._append is None)
    recorder.writer.append_text(" bears")
    assert recorder.writer._timer is not None
    assert [len(ask["events"]) for ask in recorder.asked] == [1, 1]
    await recorder.finish()
    assert text_of(await recorder.stream_events()) == "Two bears"


async def test_first_words_that_come_while_a_stage_is_sent_leave_right_behind(front: Front) -> None:
    recorder = await _recorder(front, flush=_LATE)
    await _stage_is_sent(recorder)
    recorder.writer.append_reasoning("Hm")
    await recorder.asks(2)
    await recorder.finish()
    assert [each.event for each in await recorder.stream_events()] == [
        StageChanged("generating"),
        Reasoning("Hm"),
    ]


async def test_words_of_a_batch_wait_for_its_next_window(front: Front) -> None:
    recorder = await _recorder(front, flush=_LATE, lane="batch")
    await _stage_is_sent(recorder)
    await until(lambda: recorder.asked and recorder.writer._append is None)
    recorder.writer.append_text("Two")
    rest = await recorder.finish()
    assert rest is not None
    assert len(recorder.asked) == 1


async def test_what_is_written_between_two_flushes_leaves_together(front: Front) -> None:
    recorder = await _recorder(front, flush=0.05)
    recorder.writer.append_text("Two")
    await recorder.asks(1)
    for _ in range(100):
        recorder.writer.append_text(" bears")
    await until(lambda: len(recorder.asked) == 2)
    assert [len(ask["events"]) for ask in recorder.asked] == [1, 1]
    assert await recorder.finish() is None


async def test_nothing_is_sent_while_nothing_is_written(front: Front) -> None:
    recorder = await _recorder(front)
    assert await recorder.finish() is None
    assert recorder.asked == []
    assert recorder.writer.next_seq() == 1


async def test_later_attempt_begins_by_dropping_what_was_reported(front: Front) -> None:
    recorder = await _recorder(front, attempts=3)
    recorder.writer.append_text("Two")
    await recorder.finish()
    assert [(each.epoch, each.seq, each.event) for each in await recorder.stream_events()] == [
        (2, 1, Reset(keep=0)),
        (3, 1, Reset(keep=0)),
        (3, 2, Delta("Two")),
    ]


async def test_append_on_a_lost_connection_is_repeated_on_a_new_one(front: Front) -> None:
    ticket = await front.submit()
    redis = Redis(front.settings.redis)
    writer = Writer(
        redis,
        await front.claim(ticket),
        clock=ImpatientClock(),
        flush_seconds=_SOON,
        on_stop=lambda why: pytest.fail(f"stopped: {why}"),
    )
    try:
        writer.append_text("Two ")
        await writer.flush()
        assert redis._protocol is not None
        redis._protocol.abort()
        writer.append_text("bears")
        await writer.flush()
        assert (await front.poll(ticket)).text == "Two bears"
        assert [each.event for each in await front.stream_events(ticket)] == [
            Delta("Two "),
            Delta("bears"),
        ]
    finally:
        await writer.close()
        await redis.close()


@pytest.mark.parametrize("trouble", ["lost", "unanswered"])
async def test_append_without_a_reply_is_repeated_and_changes_nothing_twice(
    front: Front, trouble: Trouble, system: System
) -> None:
    system.expected.add("waiting for Redis")
    recorder = await _recorder(front)
    recorder.redis.troubles.extend([trouble, trouble])
    recorder.writer.append_text("Two")
    recorder.writer.append_text(" bears")
    await recorder.asks(3)
    assert [ask["seq"] for ask in recorder.asked] == [1, 1, 1]
    await recorder.finish()
    assert [each.event for each in await recorder.stream_events()] == [Delta("Two bears")]
    assert await recorder.text() == "Two bears"
    assert recorder.stops == []


async def test_close_waits_for_what_is_under_way(front: Front, system: System) -> None:
    system.expected.add("waiting for Redis")
    recorder = await _recorder(front)
    recorder.redis.troubles.extend(["lost", "unanswered"])
    recorder.writer.append_text("Two")
    await recorder.asks(1)
    recorder.writer.append_text(" bears")
    await recorder.finish()
    assert text_of(await recorder.stream_events()) == "Two bears"
    assert [each.seq for each in await recorder.stream_events()] == [1, 2]


async def test_refused_token_stops_the_writer_for_good(front: Front) -> None:
    recorder = await _recorder(front)
    ask = ReleaseAsk(account="ann", id=recorder._claimed.id, attempt=1, delay_ms=0, keep=KEEP)
    assert await functions.release(front.redis, recorder._claimed.root, ask) == "released"
    recorder.writer.append_text("Two")
    await until(lambda: recorder.stops)
    recorder.writer.append_text(" bears")
    await recorder.finish()
    assert recorder.stops == ["lost"]
    assert len(recorder.asked) == 1
    assert await recorder.stream_events() == []


async def test_cancel_comes_with_the_next_append(front: Front) -> None:
    recorder = await _recorder(front)
    await front.cancel(recorder._ticket)
    recorder.writer.append_text("Two")
    await until(lambda: recorder.stops)
    assert recorder.stops == ["cancel"]
    assert text_of(await recorder.stream_events()) == "Two"
    recorder.writer.append_text(" bears")
    rest = await recorder.finish()
    assert rest is not None
    assert text_of(await recorder.stream_events()) == "Two bears"


async def test_fault_of_an_append_stops_the_attempt_and_close_tells_no_more(
    front: Front, system: System
) -> None:
    system.expected.add("an append failed")
    recorder = await _recorder(front)
    recorder.redis.troubles.append("refused")
    recorder.writer.append_text("Two")
    await until(lambda: recorder.stops)
    assert recorder.stops == ["fault"]
    recorder.writer.append_text(" bears")
    assert await recorder.finish() is None
    assert len(recorder.asked) == 1


async def test_fault_while_closing_is_reported_too(front: Front, system: System) -> None:
    system.expected.add("an append failed")
    recorder = await _recorder(front)
    recorder.redis.troubles.append("refused")
    recorder.writer.append_text("Two")
    await recorder.asks(1)
    assert await recorder.writer.close() is None
    assert recorder.stops == ["fault"]


async def test_nothing_leaves_after_the_close(front: Front) -> None:
    recorder = await _recorder(front)
    recorder.writer.append_text("Two")
    await recorder.finish()
    asked = len(recorder.asked)
    recorder.writer.append_text(" bears")
    recorder.writer.append_event(StageChanged("generating"))
    assert recorder.writer._append is None
    assert recorder.writer._timer is None
    assert len(recorder.asked) == asked


async def test_progress_never_falls(front: Front) -> None:
    recorder = await _recorder(front)
    for count, expected in enumerate((10, 100, 5, 50), 1):
        recorder.writer.expect(expected)
        recorder.writer.append_text("x")
        await recorder.asks(count)
        await until(lambda: recorder.writer._append is None)
    await recorder.finish()
    assert [ask["progress"] for ask in recorder.asked] == [10, 10, 60, 60]
    assert (await front.poll(recorder._ticket)).progress == 60


async def test_whatever_is_lost_on_the_way_nothing_is_lost_doubled_or_out_of_order(
    front: Front, system: System
) -> None:
    system.expected.add("waiting for Redis")
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    recorder = await _recorder(front, flush=0.001)
    said = thought = ""
    for number in range(60):
        if chance.random() < 0.3:
            recorder.redis.troubles.append(chance.choice(["none", "lost", "unanswered"]))
        if chance.random() < 0.1:
            recorder.writer.append_event(StageChanged("generating"))
        if chance.random() < 0.3:
            thought += f"{number}? "
            recorder.writer.append_reasoning(f"{number}? ")
        said += f"{number} "
        recorder.writer.append_text(f"{number} ")
        if chance.random() < 0.5:
            await ImpatientClock().sleep(chance.random())
    await recorder.finish()
    stream_events = await recorder.stream_events()
    assert [each.seq for each in stream_events] == list(range(1, len(stream_events) + 1)), seed
    assert text_of(stream_events) == await recorder.text() == said, seed
    reasoning_texts = [
        each.event.text for each in stream_events if isinstance(each.event, Reasoning)
    ]
    assert "".join(reasoning_texts) == thought, seed
