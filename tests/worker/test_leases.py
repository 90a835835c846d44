"""Leases: how a worker keeps its attempts, and what happens when Redis refuses their results."""

import asyncio
import dataclasses
import time
from itertools import repeat

import msgspec
import pytest

from shared.errors import StoreError, UnavailableError
from shared.redis import functions, keys
from shared.redis.client import Connection, Redis
from shared.redis.functions import ClaimAsk, Claimed, ClaimReply, ReleaseAsk, RenewLeasesAsk, Stop
from tests.support.redis_functions import KEEP, RedisFunctions
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front
from tests.worker.lossy_redis import LossyRedis
from tests.worker.running_workers import running_worker
from worker.consumer.claims import Claims
from worker.consumer.slots import Slots

pytestmark = pytest.mark.each_once


async def test_generation_that_comes_back_while_its_first_attempt_still_runs_is_kept_apart(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", beat_seconds=1.0)
    gate = asyncio.Event()
    provider.script.extend(
        [
            ScriptedAnswer(text="old", gate=gate),
            ScriptedAnswer(text="new " * 3, gate=gate, gate_after=1),
        ]
    )
    async with running_worker(system) as worker:
        ticket = await front.submit()
        await until(lambda: len(provider.requests) == 1)
        ask = ReleaseAsk(account="ann", id=ticket.id, attempt=1, delay_ms=0, keep=KEEP)
        assert await functions.release(front.redis, ticket.root, ask) == "released"
        await front.seen(ticket, lambda found: found.attempt == 2 and found.text)
        await asyncio.wait_for(provider.requests[0].ended.wait(), 3)
        await until(lambda: [one.attempt for one in worker.slots.held()] == [2])
        gate.set()
        ended = await front.end(ticket)
        await until(lambda: not len(worker.slots))
    assert (ended.stage, ended.text, ended.attempt) == ("completed", "new new new", 2)
    assert (await front.credit_totals()).held == 0


async def test_worker_keeps_its_leases_while_a_model_thinks(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", lease_seconds=0.4, beat_seconds=0.1)
    provider.script.append(ScriptedAnswer(text="Two", first_seconds=1.2))
    async with running_worker(system), running_worker(system):
        ended = await front.end(await front.submit())
    assert (ended.stage, ended.attempt) == ("completed", 1)
    assert len(provider.requests) == 1


async def test_heartbeat_that_fails_for_no_reason_that_is_known_is_not_the_last(
    system: System, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.change("worker", lease_seconds=0.8, beat_seconds=0.1)
    system.expected.add("a beat failed")
    provider.script.append(ScriptedAnswer(text="Two", first_seconds=2.0))
    beat, faults = functions.renew_leases, [RuntimeError("can't start new thread")]

    async def faulty(redis: Connection, root: str, ask: RenewLeasesAsk) -> list[Stop]:
        if faults:
            raise faults.pop()
        return await beat(redis, root, ask)

    monkeypatch.setattr(functions, "renew_leases", faulty)
    async with running_worker(system):
        ended = await front.end(await front.submit())
    assert (ended.stage, ended.attempt, faults) == ("completed", 1, [])


async def test_worker_whose_loop_is_stuck_for_a_while_keeps_its_leases(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", lease_seconds=0.4, beat_seconds=0.05)
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="Two", gate=gate))
    async with running_worker(system):
        ticket = await front.submit()
        await until(lambda: provider.requests)
        ends = time.monotonic() + 1.0
        while time.monotonic() < ends:
            pass
        gate.set()
        ended = await front.end(ticket)
    assert (ended.stage, ended.attempt) == ("completed", 1)


async def test_end_that_redis_will_not_have_is_tried_again_and_then_given_up(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", lease_seconds=0.3, reap_seconds=0.05)
    system.expected |= {"an attempt could not be settled; its lease will lapse", "reaped"}
    async with running_worker(system) as worker:
        lossy_redis = LossyRedis(front.redis, "settle")
        lossy_redis.troubles.append("refused")
        worker.ctx["dependencies"] = dataclasses.replace(
            worker.ctx["dependencies"], durable_redis=lossy_redis
        )
        ended = await front.end(await front.submit())
        assert (ended.stage, ended.attempt) == ("completed", 2)
        lossy_redis.troubles.extend(["refused"] * 3)
        ended = await front.end(await front.submit())
    assert (ended.stage, ended.captured, len(provider.requests)) == ("failed", 0, 5)
    assert ended.assistant is not None
    assert ended.assistant.failure is not None
    assert ended.assistant.failure.code == "CRASHED"
    assert (await front.credit_totals()).held == 0


async def test_one_that_is_left_of_a_large_fleet_looks_for_the_dead_as_often(
    system: System, front: Front
) -> None:
    root = keys.system_root(system.settings.redis)
    clocks = keys.CLOCKS(keys.partition_root(system.settings.redis, 0))
    async with running_worker(system) as worker:
        # They report once more and are gone; this one believes in them for a while.
        now_ms = system.clock.now_ms()
        fleet = [word for number in range(1_000) for word in (now_ms + 60_000, f"gone{number}")]
        await front.redis.call("ZADD", keys.REPORT_TIMES(root), *fleet)
        before = await front.redis.call("ZSCORE", keys.REPORT_TIMES(root), worker.id)
        await until(lambda: _has_changed(front.redis, keys.REPORT_TIMES(root), worker.id, before))
        looks = set()

        async def looked() -> bool:
            looks.add(await front.redis.call("HGET", clocks, "reaped"))
            return len(looks) > 3

        await until(looked, what="looks for the dead")


async def _has_changed(redis: Connection, key: str, member: str, before: object) -> bool:
    return bool(await redis.call("ZSCORE", key, member) != before)


async def test_provider_that_asks_for_patience_gets_it_and_is_asked_again(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.extend(
        [ScriptedAnswer(status=429, headers={"retry-after": "9"}), ScriptedAnswer(text="Two")]
    )
    async with running_worker(system) as worker:
        ticket = await front.submit(model="alpha")
        await front.seen(ticket, lambda found: found.stage == "retrying")
        await front.thaw(worker.ctx["dependencies"].circuit_breaker)
        name = f"{ticket.account}:{ticket.id}"
        assert await front.redis.call("ZADD", keys.DEFERRED(ticket.root), "XX", "CH", 1, name)
        ended = await front.end(ticket, 2)
    assert (ended.stage, ended.text, ended.attempt) == ("completed", "Two", 2)


async def test_heartbeat_that_fails_is_made_again(
    system: System, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.change("worker", lease_seconds=0.8, beat_seconds=0.1)
    system.expected.add("a beat was missed")
    beat, failed = functions.renew_leases, 0

    async def failing(redis: Connection, root: str, ask: RenewLeasesAsk) -> list[Stop]:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise StoreError("refused")
        return await beat(redis, root, ask)

    monkeypatch.setattr(functions, "renew_leases", failing)
    provider.script.append(ScriptedAnswer(text="Two", first_seconds=1.5))
    async with running_worker(system):
        ended = await front.end(await front.submit())
    assert (ended.stage, ended.attempt, failed) == ("completed", 1, 3)


async def test_claim_whose_reply_is_lost_costs_nothing(system: System, front: Front) -> None:
    redis, started = LossyRedis(front.redis, "claim"), list[Claimed]()
    claims = Claims(system.settings, "deaf", redis, Slots(system.settings.worker), started.append)
    ticket = await front.submit()
    # Each claim begins with another partition.
    redis.troubles.extend(repeat("unanswered", 2 * system.settings.redis.partitions))
    while redis.troubles:
        with pytest.raises(UnavailableError):
            await claims.take_work()
    for _ in range(2):
        claims.is_more = True
        await claims.take_work()
    await claims.close()
    record = await front.record(ticket)
    assert [(one.id, one.attempt) for one in started] == [(ticket.id, 3)]
    assert (record["stage"], record["worker"], record["drains"]) == ("routing", "deaf", "2")
    assert "crashes" not in record
    assert "unheard" not in redis.asked[-1]


async def test_blocking_claim_whose_reply_is_lost_is_repaired_at_once(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = msgspec.structs.replace(system.settings.redis, partitions=1)
    settings, started = msgspec.structs.replace(system.settings, redis=redis), list[Claimed]()
    queue, claim_at_wakeup = RedisFunctions(system.redis, redis), functions.claim_at_wakeup

    async def unanswered(redis: Redis, root: str, ask: ClaimAsk, wait_seconds: float) -> ClaimReply:
        await claim_at_wakeup(redis, root, ask, wait_seconds)
        raise UnavailableError("unanswered")

    monkeypatch.setattr(functions, "claim_at_wakeup", unanswered)
    claims = Claims(settings, "deaf", system.redis, Slots(settings.worker), started.append)
    await claims.take_work()
    ticket = await queue.submit()
    with pytest.raises(UnavailableError):
        await claims.take_work()
    # It does not wait for a wakeup: none is sent for a requeued generation.
    await claims.take_work()
    await claims.close()
    assert [(one.id, one.attempt) for one in started] == [(ticket.id, 2)]
