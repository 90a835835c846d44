"""The order in which one worker claims what waits, and that it leaves nothing."""

import asyncio
from typing import Final

import pytest

from shared.redis import keys
from shared.redis.client import Redis
from shared.wire.submission import Lane
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, Ticket
from tests.worker.running_workers import running_worker
from worker.consumer.claims import Claims

pytestmark = pytest.mark.each_once

_MANY: Final = 1_000


def _account_in(front: Front, partition: int) -> str:
    """Return the name of an account in a partition."""
    names = (f"account{number}" for number in range(1_000))
    return next(name for name in names if front.partition_of(name) == partition)


async def _submit(
    front: Front, account: str, count: int, lane: Lane = "interactive"
) -> list[Ticket]:
    """Submit so many messages that say whose they are, in which lane, and which of them."""
    return [
        await front.submit(f"{account} {lane} {number}", account=account, lane=lane)
        for number in range(count)
    ]


async def _all_end(front: Front, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        assert (await front.end(ticket)).stage == "completed"


async def test_backlog_is_claimed_up_to_all_the_room_there_is_without_a_wakeup(
    system: System, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.change("worker", concurrency=40)
    gate, waits = asyncio.Event(), []
    provider.answer = lambda _: ScriptedAnswer(text="Two", gate=gate)
    for _ in range(45):
        await front.submit()
    hear = Claims._wait_for_wakeup

    async def wait_for_wakeup(claims: Claims) -> bool:
        waits.append(len(claims._slots))
        return await hear(claims)

    monkeypatch.setattr(Claims, "_wait_for_wakeup", wait_for_wakeup)
    async with running_worker(system):
        await until(lambda: len(provider.requests) == 40)
        assert waits == []
        gate.set()
        await until(lambda: len(provider.requests) == 45)


@pytest.mark.timeout(120)
async def test_a_thousand_messages_get_their_own_answers(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.keeps_requests = False
    names = [f"account{number}" for number in range(20)]
    tickets = {
        f"{name} {number}": await front.submit(f"{name} {number}", account=name)
        for number in range(_MANY // len(names))
        for name in names
    }
    await system.spawn_worker()
    for said, ticket in tickets.items():
        ended = await front.end(ticket, 60)
        assert (ended.stage, ended.text) == ("completed", f"You said: {said}")
    for name in names:
        credit_totals = await front.credit_totals(name)
        assert credit_totals.held == 0
        assert credit_totals.settled > 0


async def test_accounts_take_turns(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=1)
    name = _account_in(front, 0)
    other = next(
        f"other{number}"
        for number in range(1_000)
        if front.root_of(f"other{number}") == front.root_of(name)
    )
    greedy = await _submit(front, name, 12)
    modest = await _submit(front, other, 4)
    async with running_worker(system):
        await _all_end(front, greedy + modest)
    order = [request.last for request in provider.requests]
    assert max(order.index(f"{other} interactive {number}") for number in range(4)) <= 8
    for account, count in ((name, 12), (other, 4)):
        own = [said for said in order if said.startswith(account)]
        assert own == [f"{account} interactive {number}" for number in range(count)]


async def test_batch_work_waits_for_interactive_work(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=1)
    slow = await _submit(front, "ann", 5, "batch")
    fast = await _submit(front, "ann", 5)
    async with running_worker(system):
        await _all_end(front, slow + fast)
    assert [request.last for request in provider.requests] == [
        f"ann {lane} {number}" for lane in ("interactive", "batch") for number in range(5)
    ]


async def test_busy_partition_does_not_hide_the_others(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=1)
    count = front.settings.redis.partitions
    busy = [
        ticket
        for partition in range(count)
        for ticket in await _submit(front, _account_in(front, partition), 10)
    ]
    async with running_worker(system):
        await _all_end(front, busy)
    order = [request.last.split()[0] for request in provider.requests]
    for start in range(0, len(order), count):
        assert len(set(order[start : start + count])) == count


async def test_turns_of_a_session_run_one_at_a_time_in_order(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda request: ScriptedAnswer(text=f"re {request.last}", gap_seconds=0.001)
    first = await front.submit("turn 0")
    turns = [first] + [
        await front.submit(f"turn {number}", session=first.session) for number in range(1, 8)
    ]
    async with running_worker(system):
        await _all_end(front, turns)
    assert [request.last for request in provider.requests] == [f"turn {n}" for n in range(8)]
    for number, request in enumerate(provider.requests):
        assert len(request.messages) == 2 * number + 1
        if number:
            before = provider.requests[number - 1].answered_at
            assert before is not None
            assert before <= request.came_at
    kept = await front.turns(first, 9)
    assert [turn.assistant.content for turn in kept if turn.assistant] == [
        f"re turn {number}" for number in range(8)
    ]


async def test_worker_takes_no_more_than_it_has_room_for(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=3)
    gate = asyncio.Event()
    provider.answer = lambda _: ScriptedAnswer(text="Two", gate=gate)
    tickets = await _submit(front, "ann", 8)
    async with running_worker(system) as worker:
        await front.seen(tickets[2], lambda found: found.stage == "generating")
        assert len(worker.slots) == 3
        assert (await front.poll(tickets[3])).stage == "queued"
        gate.set()
        await _all_end(front, tickets)
    most = 0
    moments = sorted(
        [(request.came_at, 1) for request in provider.requests]
        + [(request.answered_at or 0.0, -1) for request in provider.requests]
    )
    running = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert most == 3


@pytest.fixture
def only_wakeups(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an idle worker neither poll nor reap for half a minute: only a wakeup brings it work."""
    monkeypatch.setattr("worker.consumer.claims._IDLE_SECONDS", 60.0)
    monkeypatch.setattr("worker.consumer.arq_worker._REAP_SECONDS_MAX", 60.0)
    system.change("worker", lease_seconds=120.0, reap_seconds=60.0)


@pytest.mark.usefixtures("only_wakeups")
async def test_idle_worker_is_woken_for_each_message(system: System, front: Front) -> None:
    async with running_worker(system) as worker:
        for _ in range(5):
            await until(lambda: worker.claims._is_waiting, what="an idle worker")
            await front.end(await front.submit())


async def test_wakeup_that_is_lost_costs_a_second_and_nothing_else(
    own_system: System, own_front: Front, own_server: Server
) -> None:
    thief = Redis(own_system.settings.redis)
    # Who has waited longest is woken.
    wakeup = keys.WAKEUP(own_front.root_of("ann"), "interactive")
    stealing = asyncio.create_task(thief.call("BLPOP", wakeup, 0))
    await until(lambda: own_server.blocked_clients() == 1)
    async with running_worker(own_system):
        await until(lambda: own_server.blocked_clients() == 2)
        ticket = await own_front.submit()
        assert await stealing
        await own_front.end(ticket, 3)
    await thief.close()


@pytest.mark.usefixtures("only_wakeups")
async def test_end_of_a_turn_wakes_a_worker_for_the_next(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="Two", gate=gate))
    async with running_worker(system) as worker:
        first = await front.submit()
        following = await front.submit(session=first.session)
        await until(lambda: provider.requests)
        await until(lambda: worker.claims._is_waiting, what="an idle worker")
        gate.set()
        began = (await front.end(following)).started
    ended = (await front.poll(first)).finished
    assert began is not None
    assert ended is not None
    assert began >= ended
