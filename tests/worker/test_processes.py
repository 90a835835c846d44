"""Workers as real processes: killed, suspended, asked to stop, and raced with."""

import asyncio

import msgspec
import pytest

from shared.stores.dead_letters import ALL, DeadLetters
from tests.support.processes import Process
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import GRANT, Front, Ticket, text_of
from tests.worker.running_workers import running_worker


@pytest.fixture(autouse=True)
def _brisk(system: System) -> None:
    """Shorten leases and reaping."""
    system.change("worker", lease_seconds=0.6, beat_seconds=0.1, reap_seconds=0.1)


async def _half_told(front: Front, provider: ScriptedProvider) -> Ticket:
    """Return a generation that has shown a part and waits until its connection is cut."""
    provider.script.append(ScriptedAnswer(text="old " * 9, gate=asyncio.Event(), gate_after=4))
    ticket = await front.submit()
    await front.seen(ticket, lambda found: found.text)
    return ticket


async def _answered_once(front: Front, ticket: Ticket, text: str, attempt: int) -> None:
    """Check that a generation ended once, with one message, whichever worker made it."""
    ended, stream_events = await front.end(ticket), await front.stream_events(ticket)
    assert (ended.stage, ended.text, ended.attempt) == ("completed", text, attempt)
    assert text_of(stream_events) == text
    assert [each.event.__class__.__name__ for each in stream_events].count("Completed") == 1
    for epoch in {each.epoch for each in stream_events}:
        seqs = [each.seq for each in stream_events if each.epoch == epoch]
        assert seqs == list(range(1, len(seqs) + 1))
    (turn,) = await front.turns(ticket, 2)
    assert turn.assistant is not None
    assert turn.assistant.content == text
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.settled) == (0, ended.captured)


async def test_answer_of_a_killed_worker_is_made_by_another_once(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.expected.add("reaped")
    first = await system.spawn_worker()
    ticket = await _half_told(front, provider)
    provider.answer = lambda _: ScriptedAnswer(text="new answer")
    async with running_worker(system):
        first.kill()
        await _answered_once(front, ticket, "new answer", 2)
    assert len(provider.requests) == 2


async def test_generation_that_kills_every_worker_is_given_up_and_costs_nothing(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.expected.add("reaped")
    gate = asyncio.Event()

    def answer(request: Request) -> ScriptedAnswer:
        is_poison = request.last == "poison"
        return ScriptedAnswer(text="word " * 5, gate=asyncio.Event() if is_poison else gate)

    provider.answer = answer
    processes = msgspec.structs.replace(system.settings.worker)
    system.change("worker", concurrency=1)
    async with running_worker(system):
        # This worker is full, so that it reaps and never takes the poison.
        busy = await front.submit("busy")
        await until(lambda: provider.requests)
        system.settings = msgspec.structs.replace(system.settings, worker=processes)
        poison = await front.submit("poison")
        for crashes in range(1, 4):
            victim = await system.spawn_worker()
            await until(lambda: len(provider.requests) == 1 + crashes)  # noqa: B023  awaited here
            victim.kill()
        ended = await front.end(poison)
        gate.set()
        await front.end(busy)
    assert ended.stage == "failed"
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert (ended.assistant.failure.category, ended.assistant.failure.code) == (
        "internal",
        "CRASHED",
    )
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.balance + credit_totals.settled) == (0, GRANT)
    assert ended.captured == 0
    letters = DeadLetters(front.redis, system.accounts, system.settings)
    [letter] = (await letters.list_letters(ALL, None, 10)).letters
    assert letter.name == (poison.account, poison.id)
    assert [each.why for each in letter.attempts] == ["CRASHED"] * 3
    assert len({each.worker for each in letter.attempts}) == 3
    [line] = [each for each in system.lines if each["event"] == "dead letter"]
    assert (line["generation"], line["code"]) == (poison.id, "CRASHED")


async def test_worker_that_was_stopped_past_its_lease_shows_nothing_and_works_on(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.expected.add("reaped")
    first = await system.spawn_worker()
    ticket = await _half_told(front, provider)
    provider.answer = lambda request: ScriptedAnswer(text=f"new {request.last}")
    async with running_worker(system):
        first.pause()
        await _answered_once(front, ticket, "new hello", 2)
        ended, stream_events = await front.poll(ticket), await front.stream_events(ticket)
    first.resume()
    await asyncio.wait_for(provider.requests[0].ended.wait(), 5)
    assert (await front.poll(ticket), await front.stream_events(ticket)) == (ended, stream_events)
    assert (await front.end(await front.submit("again"))).text == "new again"


async def test_worker_that_is_asked_to_stop_hands_back_what_it_has_and_ends_well(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    first = await system.spawn_worker()
    ticket = await _half_told(front, provider)
    provider.answer = lambda _: ScriptedAnswer(text="new answer")
    first.terminate()
    assert await first.wait_until_ended() == 0
    record = await front.record(ticket)
    assert (record["stage"], record["drains"]) == ("queued", "1")
    assert "crashes" not in record
    async with running_worker(system):
        await _answered_once(front, ticket, "new answer", 2)
    events = [line["event"] for line in first.lines()]
    assert events[0] == "worker ready"
    assert "draining" in events
    _has_ids(first, ticket)


def _has_ids(process: Process, ticket: Ticket) -> None:
    """Check that every log line about a generation names it, and that none has its content."""
    lines = [line for line in process.lines() if "attempt" in line]
    assert lines
    assert all(line["generation"] == ticket.id for line in lines)
    assert "old old" not in process.text()
    assert "hello" not in process.text()


async def test_cancels_that_race_with_claims_all_end_in_a_worker_process(
    system: System, front: Front
) -> None:
    await system.spawn_worker()
    for _ in range(15):
        tickets = [await front.submit(f"{number}") for number in range(10)]
        await asyncio.gather(*(front.cancel(ticket) for ticket in tickets))
        for ticket in tickets:
            assert (await front.end(ticket, 3)).stage in {"cancelled", "completed"}
    assert (await front.credit_totals()).held == 0


async def test_workers_share_the_work_and_make_nothing_twice(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    workers = [await system.spawn_worker(), await system.spawn_worker()]
    tickets = {
        f"{account} {number}": await front.submit(f"{account} {number}", account=account)
        for number in range(20)
        for account in ("ann", "bob", "cem", "dee")
    }
    for said, ticket in tickets.items():
        ended = await front.end(ticket)
        assert (ended.stage, ended.text, ended.attempt) == ("completed", f"You said: {said}", 1)
    assert sorted(request.last for request in provider.requests) == sorted(tickets)

    def made() -> list[int]:
        return [sum(line["event"] == "settled" for line in worker.lines()) for worker in workers]

    # A log line is in the file a moment after it was logged.
    await until(lambda: sum(made()) >= len(tickets), what="what both logged")
    assert sum(made()) == len(tickets)
    assert min(made()) > 0
