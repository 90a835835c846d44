"""What stops an attempt from outside, or breaks it from inside, and how it then ends."""

import asyncio

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.functions import ReleaseAsk
from shared.wire import event as events
from shared.wire.generation import Generation
from tests.support.redis_functions import KEEP
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import GRANT, HOLD, Front, Ticket, text_of
from tests.worker.lossy_redis import LossyRedis, Trouble
from tests.worker.providers.upstream import Line, Upstream
from tests.worker.single_attempts import Attempts, ImpatientClock
from worker import pipeline
from worker.outcome import Outcome, StopReason
from worker.run import Run


@pytest.fixture(autouse=True)
def _loud(system: System) -> None:
    """Expect the log line of a settlement that Redis does not answer."""
    system.expected.add("waiting for Redis")


def _fault(ended: Generation) -> tuple[str, str]:
    assert ended.stage == "failed"
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert ended.captured == 0
    return ended.assistant.failure.category, ended.assistant.failure.code


async def _seen(front: Front, ticket: Ticket, length: int = 1) -> Generation:
    """Wait until so much of the answer can be read."""
    return await front.seen(ticket, lambda found: len(found.text) >= length)


async def _is_left(provider: ScriptedProvider) -> bool:
    """Wait until the upstream, which sends nothing more, is left; tell whether it is unanswered."""
    await asyncio.wait_for(provider.requests[-1].ended.wait(), 10)
    return provider.requests[-1].gone_at is not None


# Cancel


async def test_cancel_before_the_first_token_costs_nothing_and_leaves_the_upstream(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: provider.requests)
    await front.cancel(ticket)
    attempts.stop_signal.trigger("cancel")
    assert await _is_left(provider)
    await attempt
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text, ended.captured) == ("cancelled", "", 0)
    assert isinstance((await front.stream_events(ticket))[-1].event, events.Cancelled)
    assert (await front.credit_totals()).balance == GRANT


async def test_cancel_in_the_middle_keeps_what_was_made_and_takes_its_price(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="word " * 40, gate=gate, gate_after=20))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    seen = await _seen(front, ticket, 20 * len(" word") - 1)
    await front.cancel(ticket)
    attempts.stop_signal.trigger("cancel")
    assert await _is_left(provider)
    await attempt
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text) == ("cancelled", seen.text)
    assert text_of(await front.stream_events(ticket)) == ended.text
    assert ended.assistant is not None
    assert ended.assistant.usage is not None
    assert ended.assistant.usage.estimated
    assert 0 < ended.captured == ended.assistant.usage.cost < HOLD
    credit_totals = await front.credit_totals()
    assert (credit_totals.balance, credit_totals.held) == (GRANT - ended.captured, 0)


async def test_cancel_comes_with_the_next_token_even_when_nobody_brings_it(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="word " * 4000, gap_seconds=0.002))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await _seen(front, ticket)
    await front.cancel(ticket)
    await asyncio.wait_for(attempt, 2)
    assert (await front.poll(ticket)).stage == "cancelled"


async def test_cancel_while_the_end_is_written_comes_too_late(
    attempts: Attempts, front: Front
) -> None:
    lossy_redis = LossyRedis(front.redis, "settle")
    lossy_redis.troubles.extend(["lost"] * 5)
    attempts.redis = lossy_redis
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: lossy_redis.asked)
    attempts.stop_signal.trigger("cancel")
    await front.cancel(ticket)
    await attempt
    ended = await front.poll(ticket)
    assert (ended.stage, ended.text) == ("completed", "You said: hello")


# Triggered before it began


async def test_attempt_that_is_cancelled_before_it_begins_still_ends(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    ticket = await front.submit()
    await attempts.stopped_early(ticket, "cancel")
    assert (await front.poll(ticket)).stage == "cancelled"
    assert provider.requests == []


async def test_attempt_that_is_drained_goes_back_to_the_front_of_its_lane(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    first = await front.submit("first")
    second = await front.submit("second")
    await attempts.stopped_early(first, "drain")
    assert (await front.poll(first)).stage == "queued"
    record = await front.record(first)
    assert (record["attempt"], record["drains"]) == ("1", "1")
    assert "crashes" not in record
    await attempts.run(first)
    await attempts.run(second)
    assert [request.last for request in provider.requests] == ["first", "second"]


@pytest.mark.parametrize("why", ["cancel", "drain", "lost"])
async def test_stop_signal_that_is_triggered_twice_stops_once(
    attempts: Attempts, front: Front, provider: ScriptedProvider, why: StopReason
) -> None:
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: provider.requests)
    attempts.stop_signal.trigger(why)
    attempts.stop_signal.trigger("cancel")
    await attempt
    stage = (await front.poll(ticket)).stage
    # An attempt that has lost its lease leaves the stage; its first append may have been made.
    expected = {"cancel": {"cancelled"}, "drain": {"queued"}, "lost": {"routing", "generating"}}
    assert stage in expected[why]


# Lost


async def test_attempt_that_lost_its_lease_shows_nothing_more(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.extend(
        [ScriptedAnswer(text="old " * 20, gate=gate, gate_after=3), ScriptedAnswer(text="new")]
    )
    ticket = await front.submit()
    old = attempts.begin(ticket)
    await _seen(front, ticket)
    ask = ReleaseAsk(account="ann", id=ticket.id, attempt=1, delay_ms=0, keep=KEEP)
    assert await functions.release(front.redis, ticket.root, ask) == "released"
    await attempts.run(ticket)
    ended, stream_events = await front.poll(ticket), await front.stream_events(ticket)
    gate.set()
    await asyncio.wait_for(old, 5)
    later = msgspec.structs.replace(await front.poll(ticket), seen=ended.seen)
    assert (later, await front.stream_events(ticket)) == (ended, stream_events)
    assert (ended.stage, ended.text, ended.attempt) == ("completed", "new", 2)
    assert text_of(stream_events) == "new"
    assert len(await front.turns(ticket, 2)) == 1


async def test_attempt_that_lost_its_lease_before_its_end_cannot_end_it(
    attempts: Attempts, front: Front
) -> None:
    lossy_redis = LossyRedis(front.redis, "settle")
    lossy_redis.troubles.extend(["lost"] * 3)
    attempts.redis = lossy_redis
    ticket = await front.submit()
    attempt = attempts.begin(ticket)
    await until(lambda: lossy_redis.asked)
    ask = ReleaseAsk(account="ann", id=ticket.id, attempt=1, delay_ms=0, keep=KEEP)
    assert await functions.release(front.redis, ticket.root, ask) == "released"
    await attempt
    assert (await front.poll(ticket)).stage == "queued"
    assert (await front.credit_totals()).held == HOLD


# Time


async def test_model_that_does_not_begin_is_given_up(
    attempts: Attempts, front: Front, provider: ScriptedProvider, system: System
) -> None:
    attempts.change_models(first_token_seconds=0.1)
    provider.answer = lambda _: ScriptedAnswer(gate=asyncio.Event())
    ticket = await front.submit(model="alpha")
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    # On a busy machine a call may be given up before the upstream has read it.
    failed = [line for line in system.lines if line["event"] == "the provider failed"]
    assert [line["code"] for line in failed] == ["FIRST_TOKEN_TIMEOUT"] * 2
    await front.cancel(ticket)


async def test_provider_that_falls_silent_is_given_up(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.change_providers(idle_seconds=0.1)
    provider.answer = lambda _: ScriptedAnswer(text="word " * 9, gate=asyncio.Event(), gate_after=5)
    ticket = await front.submit()
    await attempts.run(ticket)
    ended = await front.poll(ticket)
    assert _fault(ended) == ("timeout", "PROVIDER_SILENT")
    assert ended.text == "word word word word word"
    assert len(provider.requests) == 1


async def _pinging(line: Line) -> None:
    await line.head()
    while True:
        await line.send(b": ping\n\n")
        await ImpatientClock().sleep(1)


async def test_provider_that_only_pings_is_given_up(attempts: Attempts, front: Front) -> None:
    attempts.change_providers(idle_seconds=0.2)
    attempts.change_models(first_token_seconds=0.2)
    async with Upstream() as upstream:
        upstream.script = _pinging
        attempts.change_providers(base_url=upstream.url)
        ticket = await front.submit(model="alpha")
        await asyncio.wait_for(attempts.run(ticket), 5)
    assert (await front.poll(ticket)).stage == "retrying"
    await front.cancel(ticket)


# Faults of our own


@pytest.mark.parametrize("index", range(4))
async def test_step_that_raises_ends_one_generation(
    attempts: Attempts, front: Front, system: System, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    async def broken(_: Run) -> Outcome | None:
        raise ZeroDivisionError

    system.expected.add("a step failed")
    steps = list(pipeline.STEPS)
    steps[index] = broken
    monkeypatch.setattr(pipeline, "STEPS", tuple(steps))
    ended = await attempts.ended()
    assert _fault(ended) == ("internal", "INTERNAL")
    assert (await front.credit_totals()).balance == GRANT
    monkeypatch.undo()
    assert (await attempts.ended()).stage == "completed"


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x80", b"\xa5hello", b"\x81\xa7session\x01"])
async def test_submission_that_cannot_be_read_ends_one_generation(
    attempts: Attempts, system: System, blob: bytes
) -> None:
    system.expected.add("unreadable record")
    assert _fault(await attempts.ended(blob=blob)) == ("internal", "UNREADABLE_RECORD")
    assert (await attempts.ended()).stage == "completed"


async def _spoil(front: Front, turns: str, field: str) -> None:
    """Make a record unreadable and leave it its size, by which it is counted."""
    size = await front.redis.call("HSTRLEN", turns, field)
    await front.redis.call("HSET", turns, field, b"\xc1" * size)


async def test_message_that_cannot_be_read_ends_one_generation(
    attempts: Attempts, front: Front, system: System
) -> None:
    system.expected.add("unreadable record")
    ticket = await front.submit()
    turns = keys.TURNS(ticket.root, ticket.account, ticket.session, 0)
    await _spoil(front, turns, "1:u")
    await attempts.run(ticket)
    stored = await front.redis.call("HGET", turns, "1:a")
    assert stored is not None
    record = await front.record(ticket)
    assert record["stage"] == "failed"


async def test_history_that_cannot_be_read_ends_one_generation(
    attempts: Attempts, front: Front, system: System
) -> None:
    system.expected.add("a step failed")
    first = await front.submit()
    await attempts.run(first)
    turns = keys.TURNS(first.root, first.account, first.session, 0)
    await _spoil(front, turns, "1:a")
    second = await front.submit(session=first.session)
    await attempts.run(second)
    assert _fault(await front.poll(second)) == ("internal", "INTERNAL")


async def test_append_that_fails_ends_one_generation_and_leaves_the_upstream(
    attempts: Attempts, front: Front, system: System, provider: ScriptedProvider
) -> None:
    system.expected.add("an append failed")
    lossy_redis = LossyRedis(front.redis, "append")
    lossy_redis.troubles.append("refused")
    attempts.redis = lossy_redis
    provider.script.append(ScriptedAnswer(text="word " * 4000, gap_seconds=0.002))
    ticket = await front.submit()
    await asyncio.wait_for(attempts.run(ticket), 3)
    assert _fault(await front.poll(ticket)) == ("internal", "INTERNAL")
    assert (await front.credit_totals()).balance == GRANT
    assert isinstance((await front.stream_events(ticket))[-1].event, events.Failed)


# Trouble with Redis


async def test_step_that_redis_does_not_answer_is_tried_again_later(
    attempts: Attempts, front: Front, system: System
) -> None:
    system.expected.add("waiting for Redis")
    first = await front.submit()
    await attempts.run(first)
    lossy_redis = LossyRedis(front.redis, "HGETALL")
    lossy_redis.troubles.append("lost")
    attempts.redis = lossy_redis
    ticket = await front.submit(session=first.session)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    await front.hasten(ticket)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"


@pytest.mark.parametrize("troubles", [["lost"] * 4, ["unanswered"] * 4, ["lost", "unanswered"] * 2])
async def test_end_is_repeated_until_it_is_answered_and_counts_once(
    attempts: Attempts, front: Front, troubles: list[Trouble]
) -> None:
    lossy_redis = LossyRedis(front.redis, "settle")
    lossy_redis.troubles.extend(troubles)
    attempts.redis = lossy_redis
    ended = await attempts.ended()
    assert len(lossy_redis.asked) == len(troubles) + 1
    assert (ended.stage, ended.text) == ("completed", "You said: hello")
    credit_totals = await front.credit_totals()
    assert (credit_totals.settled, credit_totals.balance) == (
        ended.captured,
        GRANT - ended.captured,
    )
    stream_events = await front.stream_events(
        Ticket(front.root_of("ann"), "ann", ended.session or "", ended.id)
    )
    assert [each.seq for each in stream_events] == list(range(1, len(stream_events) + 1))
    assert [type(each.event) for each in stream_events].count(events.Completed) == 1


async def test_last_events_are_repeated_together_with_the_end(
    attempts: Attempts, front: Front
) -> None:
    attempts.change_worker(flush_seconds=30.0)
    lossy_redis = LossyRedis(front.redis, "settle")
    lossy_redis.troubles.extend(["unanswered", "lost", "unanswered"])
    attempts.redis = lossy_redis
    ticket = await front.submit("say it")
    await attempts.run(ticket)
    ended, stream_events = await front.poll(ticket), await front.stream_events(ticket)
    assert text_of(stream_events) == ended.text == "You said: say it"
    assert [each.seq for each in stream_events] == list(range(1, len(stream_events) + 1))


@pytest.mark.parametrize("trouble", ["lost", "unanswered"])
async def test_release_is_repeated_until_it_is_answered(
    attempts: Attempts, front: Front, trouble: Trouble
) -> None:
    lossy_redis = LossyRedis(front.redis, "release")
    lossy_redis.troubles.extend([trouble] * 3)
    attempts.redis = lossy_redis
    ticket = await front.submit()
    await attempts.stopped_early(ticket, "drain")
    assert (await front.poll(ticket)).stage == "queued"
    assert (await front.record(ticket))["drains"] == "1"
