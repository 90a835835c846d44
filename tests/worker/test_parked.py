"""Parked turns: workers with different keys, a backlog behind a limit; no claim is in vain."""

import asyncio
from typing import Any

import msgspec
import pytest

from shared.redis import keys
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, Ticket
from tests.worker.running_workers import running_worker, started
from worker.consumer.arq_worker import PolluxWorker

pytestmark = pytest.mark.each_once

_KEY = {"PARKED_KEY": "secret"}


def _keyed(system: System, **limits: object) -> None:
    """Have the first model's provider need a key, and the second model's none."""
    first, second = system.settings.providers
    alpha, beta, *others = system.settings.models
    system.settings = msgspec.structs.replace(
        system.settings,
        providers=(
            msgspec.structs.replace(first, api_key_env="PARKED_KEY", **limits),
            msgspec.structs.replace(second, api_key_env=None),
        ),
        models=(
            msgspec.structs.replace(alpha, provider=first.name),
            msgspec.structs.replace(beta, provider=second.name),
            *others,
        ),
    )


async def _attempts(front: Front, tickets: list[Ticket]) -> set[str]:
    return {(await front.record(ticket))["attempt"] for ticket in tickets}


async def _knows_what_others_serve(*workers: PolluxWorker) -> None:
    """Wait until the workers know that another has the key."""
    await until(
        lambda: all(
            worker.ctx["dependencies"].models_without_parking is not None for worker in workers
        ),
        what="the fleet's keys",
    )


async def test_a_turn_goes_to_the_worker_that_has_the_key_and_no_attempt_is_in_vain(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    _keyed(system)
    provider.answer = lambda _: ScriptedAnswer(text="Two")
    async with (
        running_worker(system, _KEY),
        running_worker(system) as one,
        running_worker(system) as two,
    ):
        await _knows_what_others_serve(one, two)
        tickets = []
        for number in range(12):
            ticket = await front.submit(f"hello {number}", model="alpha")
            assert (await front.end(ticket)).stage == "completed"
            tickets.append(ticket)
        records = [await front.record(ticket) for ticket in tickets]
    # Each of the two may have begun its wait for work before it knew who has the key.
    assert sum(int(record["attempt"]) for record in records) <= len(tickets) + 2


async def test_turns_whose_key_is_gone_wait_for_it_and_cost_one_attempt_at_most(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    _keyed(system)
    provider.answer = lambda _: ScriptedAnswer(text="Two")
    async with running_worker(system):
        tickets = [await front.submit(f"hello {n}", model="alpha") for n in range(20)]

        async def are_parked() -> bool:
            records = [await front.record(ticket) for ticket in tickets]
            return all("parked" in record for record in records)

        await until(are_parked, what="parked turns")
        # Whoever serves something else is not kept from it.
        other = await front.submit("other", model="beta")
        assert (await front.end(other)).stage == "completed"
        assert await _attempts(front, tickets) <= {"0", "1"}
        async with running_worker(system, _KEY):
            ended = [await front.end(ticket) for ticket in tickets]
        assert {one.stage for one in ended} == {"completed"}
        assert await _attempts(front, tickets) <= {"1", "2"}
    for root in {ticket.root for ticket in tickets}:
        assert await front.redis.call("EXISTS", keys.PARKED_QUEUES(root)) == 0


@pytest.mark.timeout(60)
async def test_a_backlog_behind_a_limit_is_claimed_as_room_comes(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    _keyed(system, concurrency_max=2)
    provider.answer = lambda _: ScriptedAnswer(text="Two", first_seconds=0.02)
    async with running_worker(system, _KEY), running_worker(system, _KEY):
        tickets = [
            await front.submit(f"hello {n}", account=f"a{n % 5}", model="alpha") for n in range(80)
        ]
        ended = [await front.end(ticket, 40) for ticket in tickets]
        assert {one.stage for one in ended} == {"completed"}
        attempts = sum([int((await front.record(ticket))["attempt"]) for ticket in tickets])
    # Claimed in vain: turns claimed before the first call found no room, once each.
    assert attempts <= len(tickets) + 2 * 2 * system.settings.worker.concurrency


@pytest.mark.timeout(60)
async def test_room_taken_for_a_turn_that_does_not_call_goes_to_the_next_at_once(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    """One is cancelled after it was claimed with a permit and before it calls."""
    _keyed(system, concurrency_max=1)
    held, go_on, is_answered = asyncio.Queue[str](), asyncio.Event(), asyncio.Event()

    async def hold(ctx: dict[str, Any]) -> None:
        # Stands for what comes before the call and takes its time.
        if ctx["job_try"] > 1 and not go_on.is_set():
            held.put_nowait(ctx["job_id"])
            await go_on.wait()

    provider.answer = lambda _: ScriptedAnswer(text="Two", gate=is_answered)
    async with running_worker(system, _KEY, {"on_job_start": hold}) as worker:
        tickets = [
            await front.submit(f"hello {n}", account=f"a{n}", model="alpha") for n in range(4)
        ]

        async def are_parked() -> bool:
            return sum(["parked" in await front.record(ticket) for ticket in tickets]) == 3

        await until(are_parked, what="parked turns")
        is_answered.set()
        name = await asyncio.wait_for(held.get(), 20)
        cancelled = next(ticket for ticket in tickets if ticket.id == name)
        await front.cancel(cancelled)

        def has_received() -> bool:
            stop_signals = worker.slots.stop_signals_of(cancelled.account, cancelled.id)
            return all(stop_signal.why == "cancel" for stop_signal in stop_signals)

        await until(has_received, what="the cancel")
        go_on.set()
        assert (await front.end(cancelled)).stage == "cancelled"
        others = [await front.end(ticket) for ticket in tickets if ticket is not cancelled]
    assert {one.stage for one in others} == {"completed"}


@pytest.mark.parametrize("is_listener_lost", [False, True])
@pytest.mark.timeout(60)
async def test_a_worker_that_may_not_claim_takes_no_room(
    system: System, front: Front, provider: ScriptedProvider, *, is_listener_lost: bool
) -> None:
    """It drains, or has lost its listener, while an answer of its own goes on."""
    _keyed(system, concurrency_max=3)
    own = msgspec.structs.replace(system.settings.worker, grace_seconds=50.0)
    system.settings = msgspec.structs.replace(system.settings, worker=own)
    is_answered = asyncio.Event()
    provider.answer = lambda _: (
        ScriptedAnswer(text="Two", first_seconds=0.02)
        if len(provider.requests) > 1
        else ScriptedAnswer(text="Two", gate=is_answered)
    )
    async with started(system, _KEY) as (ending, running):
        long = await front.submit("long", account="zoe", model="alpha")
        await until(lambda: len(provider.requests) == 1, what="the long answer")
        async with running_worker(system, _KEY):
            tickets = [
                await front.submit(f"hello {n}", account=f"a{n}", model="alpha") for n in range(60)
            ]
            await until(lambda: len(provider.requests) > 10, what="calls")
            if is_listener_lost:
                ending._listener.is_lost = True
                ending.claims.note_listener(is_listener_lost=True)
            else:
                ending.begin_drain()
            await until(
                lambda: (
                    ending.ctx["dependencies"].circuit_breaker.rate_limiter.permits.held("scripted")
                    == 0
                ),
                what="no permits",
            )
            before = len(ending.slots)
            ended = [await front.end(ticket, 20) for ticket in tickets]
            assert {one.stage for one in ended} == {"completed"}
            assert (
                ending.ctx["dependencies"].circuit_breaker.rate_limiter.permits.held("scripted")
                == 0
            )
            assert not running.done()
            assert 1 <= len(ending.slots) <= before
            is_answered.set()
            assert (await front.end(long)).stage == "completed"
