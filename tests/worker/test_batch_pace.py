"""Batch turns make room for persons: fewer run where the event loop's turns are slow."""

import asyncio
import time

import pytest

from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import Claimed
from shared.settings import Settings, WorkerSettings
from tests.support.clocks import ManualClock
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.claim_answers import ClaimAnswers
from tests.worker.front import Front
from tests.worker.running_workers import running_worker
from worker.consumer.batch_pace import BatchPace
from worker.consumer.claims import Claims
from worker.consumer.slots import Slots

_FAST = 0.0001
_SLOW = 0.01


async def _measure(pace: BatchPace, clock: ManualClock, turn_seconds: float, count: int) -> None:
    """Let turns of the loop take so long; one is measured 50 ms after the last."""
    for _ in range(count):
        pace.measure()
        clock.now += turn_seconds
        await asyncio.sleep(0)  # noqa: TID251  the turn that is measured
        clock.now += 0.05


async def test_fewer_batch_turns_run_while_turns_of_the_loop_are_slow_and_somebody_talks() -> None:
    clock = ManualClock(100.0)
    pace = BatchPace(48, clock)
    await _measure(pace, clock, _SLOW, 20)
    assert pace.limit == 48
    pace.note_interactive()
    await _measure(pace, clock, _SLOW, 20)
    assert pace.limit == 1
    await _measure(pace, clock, _FAST, 60)
    assert 1 < pace.limit < 4
    await _measure(pace, clock, _FAST, 100)
    assert 4 < pace.limit < 48
    clock.now += 10
    assert pace.limit == 48


async def test_one_long_pause_of_the_loop_changes_nothing() -> None:
    clock = ManualClock(100.0)
    pace = BatchPace(48, clock)
    pace.note_interactive()
    await _measure(pace, clock, _FAST, 5)
    await _measure(pace, clock, 1.0, 1)
    await _measure(pace, clock, _FAST, 5)
    assert pace.limit == 48


async def test_slot_that_a_batch_leaves_is_not_claimed_for_above_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock(100.0)
    settings = Settings(worker=WorkerSettings(concurrency=8, batch_share=0.5))
    slots = Slots(settings.worker, clock)
    asked = ClaimAnswers()
    monkeypatch.setattr(functions, "claim", asked.claim)
    monkeypatch.setattr(functions, "claim_at_wakeup", asked.claim)
    running = [asked.new("batch") for _ in range(4)]
    for claimed in (*running, asked.new("interactive")):
        slots.take(claimed)
    started: list[Claimed] = []
    redis = Redis(settings.redis)
    claims = Claims(settings, "w", redis, slots, started.append)
    claims.is_more = False
    wakeup_wait = asyncio.create_task(claims.take_work())
    await until(lambda: asked.counts == [1])
    await _measure(slots.pace, clock, _SLOW, 20)
    for claimed in running[:3]:
        slots.leave(claimed)
        await claims.use_free_slot(claimed)
    assert (asked.counts, slots.free_for_batch) == ([1], 0)
    slots.leave(running[3])
    freed = asyncio.create_task(claims.use_free_slot(running[3]))
    await until(lambda: asked.batches == [0, 1])
    asked.none()
    await asyncio.gather(freed, wakeup_wait)
    await claims.close()
    await redis.close()


async def test_worker_with_a_busy_loop_runs_one_item_at_a_time_while_somebody_talks(
    system: System, front: Front
) -> None:
    system.change("worker", concurrency=8)

    async def keep_busy() -> None:
        while True:
            time.sleep(0.005)  # noqa: ASYNC251, TID251  this is what makes turns of the loop slow
            await asyncio.sleep(0)  # noqa: TID251  a turn of the loop

    async with running_worker(system) as worker:
        assert (await front.end(await front.submit("hello"))).stage == "completed"
        assert worker.slots.free_for_batch == 6
        busy = asyncio.create_task(keep_busy())
        items = [
            await front.submit(f"item {number}", account="mill", lane="batch")
            for number in range(24)
        ]
        await until(lambda: worker.slots.pace.limit == 1)
        busy.cancel()
        for item in items:
            assert (await front.end(item)).stage == "completed"
