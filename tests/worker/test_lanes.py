"""A worker's slots: batches hold at most their share, an interactive turn always finds one."""

import asyncio

import pytest

from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import Claimed
from shared.settings import Settings, WorkerSettings
from tests.support.chat_completions import ScriptedAnswer
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.claim_answers import ClaimAnswers
from tests.worker.front import Front
from tests.worker.running_workers import running_worker
from worker.consumer.claims import Claims
from worker.consumer.slots import Slots

pytestmark = pytest.mark.each_once


async def test_batch_leaves_slots_to_interactive_turns_and_takes_its_own_again_at_once(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=8, batch_share=0.75)
    gates = {number: asyncio.Event() for number in range(12)}

    def answer(request: object) -> ScriptedAnswer:
        words = getattr(request, "last", "")
        number = int(words.split()[-1]) if words.startswith("batch") else None
        return (
            ScriptedAnswer(text="Two", gate=gates[number])
            if number is not None
            else ScriptedAnswer(text="One")
        )

    provider.answer = answer
    async with running_worker(system) as worker:
        items = [
            await front.submit(f"batch {number}", account="mill", lane="batch")
            for number in range(12)
        ]
        await until(lambda: len(provider.requests) == 6)
        person = await front.submit("hello")
        assert (await front.end(person, 3)).stage == "completed"
        # Its end is visible a moment before its slot is free.
        await until(lambda: len(worker.slots) == 6)
        assert worker.slots.free_for_batch == 0
        gates[0].set()
        await front.end(items[0])
        await until(lambda: len(worker.slots) == 6)
        for gate in gates.values():
            gate.set()
        for item in items:
            assert (await front.end(item)).stage == "completed"


async def test_worker_of_one_slot_does_both(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=1)
    async with running_worker(system) as worker:
        item = await front.submit("item", account="mill", lane="batch")
        await front.end(item)
        assert (await front.end(await front.submit("hello"))).stage == "completed"
        assert worker.slots.free_for_batch == 1
    assert len(provider.requests) == 2


async def test_what_is_claimed_for_a_slot_that_became_free_is_not_claimed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(worker=WorkerSettings(concurrency=4, batch_share=0.5))
    slots = Slots(settings.worker)
    asked = ClaimAnswers()
    monkeypatch.setattr(functions, "claim", asked.claim)
    monkeypatch.setattr(functions, "claim_at_wakeup", asked.claim)
    running = [asked.new("batch"), asked.new("batch"), asked.new("interactive")]
    for claimed in running:
        slots.take(claimed)
    redis = Redis(settings.redis)

    def start(claimed: Claimed) -> None:
        slots.take(claimed)

    claims = Claims(settings, "w", redis, slots, start)
    claims.is_more = False
    wakeup_wait = asyncio.create_task(claims.take_work())
    await until(lambda: asked.counts == [1])
    slots.leave(running[0])
    freed = asyncio.create_task(claims.use_free_slot())
    await until(lambda: asked.counts == [1, 1])
    asked.answer(0)
    await wakeup_wait
    # Four run or are claimed: there is no room for more.
    more = asyncio.create_task(claims.take_work())
    asked.answer(1)
    await freed
    await more
    assert (asked.counts, slots.free) == ([1, 1], 0)
    await claims.close()
    await redis.close()


async def test_two_claims_under_way_never_ask_for_the_same_slot_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(worker=WorkerSettings(concurrency=8, batch_share=0.25))
    slots = Slots(settings.worker)
    asked = ClaimAnswers()
    monkeypatch.setattr(functions, "claim", asked.claim)
    monkeypatch.setattr(functions, "claim_at_wakeup", asked.claim)
    running = [asked.new("batch"), asked.new("batch"), asked.new("interactive")]
    for claimed in running:
        slots.take(claimed)
    redis = Redis(settings.redis)
    claims = Claims(settings, "w", redis, slots, lambda _: None)
    claims.is_more = False
    wakeup_wait = asyncio.create_task(claims.take_work())
    await until(lambda: asked.batches == [0])
    freed = []
    # One of the batch ends, then one of a person's: one slot is free for the batch, not two.
    for claimed in running[1:]:
        slots.leave(claimed)
        freed.append(asyncio.create_task(claims.use_free_slot()))
    await until(lambda: len(asked.batches) == 3)
    assert asked.batches == [0, 1, 0]
    asked.none()
    await asyncio.gather(wakeup_wait, *freed)
    await claims.close()
    await redis.close()
