"""Redis' clock is set back an hour: times stored before are in the future and delay nothing.

The tests make that step by moving the stored times an hour ahead.
"""

from typing import Final

import pytest

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import AdmitCallAsk, BeginProbeAsk, Breaker, Rejected
from shared.settings import RedisSettings, Settings
from shared.stores import fleet
from shared.wire.fleet import WorkerReport
from tests.support import stored_batches
from tests.support.redis_functions import RedisFunctions
from tests.support.stored_batches import in_chunks, items

HOUR_MS: Final = 3_600_000
_GAP_MS: Final = 1_000
_CIRCUIT: Final = "scripted/alpha/open"


async def _add_to_scores(redis: Redis, key: str, ms: int) -> None:
    for name in await redis.call("ZRANGE", key, 0, -1):
        await redis.call("ZINCRBY", key, ms, name)


async def _set_back(queue: RedisFunctions, redis: Redis) -> None:
    """Leave the queue of a partition as if the clock had been set back by an hour."""
    for key in (keys.LEASES, keys.DEFERRED):
        await _add_to_scores(redis, key(queue.root), HOUR_MS)
    await redis.call("HINCRBY", keys.CLOCKS(queue.root), "reaped", HOUR_MS)


async def test_rate_of_submissions_costs_one_window_at_most(
    queue: RedisFunctions, redis: Redis
) -> None:
    await queue.submit(per_minute=60)
    key = keys.SUBMISSIONS(queue.root, "ann")
    await redis.call("INCRBY", key, HOUR_MS * 1000)
    refused = await queue.accept(per_minute=60)
    assert isinstance(refused, Rejected)
    assert refused.rate is not None
    assert refused.rate.retry_ms <= 1_000
    assert refused.rate.reset_ms <= 60_000


async def test_deferred_turn_is_retried_in_time(queue: RedisFunctions, redis: Redis) -> None:
    ticket = await queue.submit()
    await queue.reap(gap_ms=_GAP_MS)
    await queue.release(await queue.claim_one(), delay_ms=60_000)
    before = await redis.call("ZRANGE", keys.DEFERRED(queue.root), 0, -1, "WITHSCORES")
    await _set_back(queue, redis)
    await queue.reap(gap_ms=_GAP_MS)
    [[name, due]] = await redis.call("ZRANGE", keys.DEFERRED(queue.root), 0, -1, "WITHSCORES")
    assert name == before[0][0]
    assert abs(due - before[0][1]) < 10_000
    assert await queue.stage(ticket) == "retrying"
    # It happens once: the next reap moves nothing.
    await queue.reap(gap_ms=_GAP_MS)
    assert await redis.call("ZSCORE", keys.DEFERRED(queue.root), name) == due


async def test_leases_and_listeners_recover_within_a_lease(
    queue: RedisFunctions, redis: Redis
) -> None:
    await queue.submit()
    await queue.reap(gap_ms=_GAP_MS)
    await queue.claim_one()
    await redis.call("HSET", keys.CLOCKS(queue.root), "deaf", SystemClock().now_ms() + HOUR_MS)
    await _set_back(queue, redis)
    await queue.reap(gap_ms=_GAP_MS)
    [_, ends] = (await redis.call("ZRANGE", keys.LEASES(queue.root), 0, -1, "WITHSCORES"))[0]
    now_ms = SystemClock().now_ms()
    assert ends <= now_ms + 2_000
    assert int(await redis.call("HGET", keys.CLOCKS(queue.root), "deaf")) <= now_ms + 2_000
    assert int(await redis.call("HGET", keys.CLOCKS(queue.root), "reaped")) <= now_ms


async def test_clock_that_jumps_ahead_ends_no_lease_of_a_live_worker(
    queue: RedisFunctions, redis: Redis
) -> None:
    ticket = await queue.submit()
    await queue.reap(gap_ms=_GAP_MS)
    claimed = await queue.claim_one(lease_ms=2_000)
    await _add_to_scores(redis, keys.LEASES(queue.root), -HOUR_MS)
    await redis.call("HINCRBY", keys.CLOCKS(queue.root), "reaped", -HOUR_MS)
    for _ in range(2):
        assert (await queue.reap(gap_ms=_GAP_MS)).done == []
    assert await queue.beat(claimed, lease_ms=2_000) == []
    assert await queue.stage(ticket) == "routing"
    await queue.complete(claimed)


async def test_batches_are_fed_and_packed_in_time(queue: RedisFunctions, redis: Redis) -> None:
    await queue.grant(1_000)
    batch = await stored_batches.store(redis, queue.root, in_chunks(items(2), 1))
    await queue.reap(gap_ms=_GAP_MS)
    await BatchFeeder(redis, Settings(redis=queue.settings), SystemClock()).feed(queue.root, "ann")
    settled = await queue.complete(await queue.claim_one())
    # The worker that was asked died.
    assert settled.wants_pack
    for key in (keys.BATCH_WORK, keys.BATCH_CHUNKS_TO_PACK):
        await _add_to_scores(redis, key(queue.root), HOUR_MS)
    later = f"ann:{'x' * 23}"
    await redis.call("ZADD", keys.BATCH_WORK(queue.root), 3 * SystemClock().now_ms(), later)
    await _set_back(queue, redis)
    await queue.reap(gap_ms=_GAP_MS)
    soon = SystemClock().now_ms() + 10_000
    for key, name in (
        (keys.BATCH_WORK, f"ann:{batch}"),
        (keys.BATCH_CHUNKS_TO_PACK, f"ann:{batch}:0"),
    ):
        assert await redis.call("ZSCORE", key(queue.root), name) < soon
    # What is due in years is not shifted.
    assert await redis.call("ZSCORE", keys.BATCH_WORK(queue.root), later) > 2 * soon
    await redis.call("ZREM", keys.BATCH_WORK(queue.root), later)


async def test_a_mark_of_feeding_holds_up_no_settlement(
    queue: RedisFunctions, redis: Redis
) -> None:
    await queue.grant(1_000)
    await stored_batches.store(redis, queue.root, [items(300)])
    await BatchFeeder(redis, Settings(redis=queue.settings), SystemClock()).feed(queue.root, "ann")
    await redis.call("HSET", keys.ACCOUNT_TOTALS(queue.root, "ann"), "batch_feeding",
        SystemClock().now_ms() + HOUR_MS)  # fmt: skip
    settled = [await queue.complete(await queue.claim_one()) for _ in range(60)]
    assert any(each.wants_feed for each in settled)


@pytest.fixture
def root(redis_settings: RedisSettings) -> str:
    """Return the root of the keys that belong to no account."""
    return keys.system_root(redis_settings)


async def test_breaker_is_probed_at_once_and_by_one_call(redis: Redis, root: str) -> None:
    now_ms = SystemClock().now_ms()
    breaker = keys.BREAKER(root, _CIRCUIT)
    fields = ("opened", now_ms + HOUR_MS, "due", now_ms + HOUR_MS + 10_000, "why", "timeout")
    await redis.call("HSET", breaker, *fields, "lease", now_ms + HOUR_MS, "trips", 1)
    await redis.call("PEXPIRE", breaker, HOUR_MS)
    asks = [
        BeginProbeAsk(circuit=_CIRCUIT, call=call, account="ann", lease_ms=5_000)
        for call in ("one", "two")
    ]
    assert await functions.begin_probe(redis, root, asks[0]) is None
    seen = await functions.begin_probe(redis, root, asks[1])
    assert isinstance(seen, Breaker)
    assert (seen.state, seen.left_ms <= 5_000) == ("probing", True)


async def test_provider_has_room_again_within_its_window(redis: Redis, root: str) -> None:
    now_ms = SystemClock().now_ms()
    slots, rates = keys.SLOTS(root, "p", "interactive"), keys.RATES(root, "p")
    await redis.call("ZADD", slots, now_ms + HOUR_MS, "dead")
    await redis.call("HSET", rates, "requests", (now_ms + HOUR_MS) * 1000)
    for key in (slots, rates):
        await redis.call("PEXPIRE", key, HOUR_MS)
    ask = AdmitCallAsk(
        provider="p", lane="interactive", call="new", lease_ms=5_000, concurrency_max=1
    )
    assert await functions.admit_call(redis, root, ask) is None
    paced = AdmitCallAsk(
        provider="p",
        lane="interactive",
        call="paced",
        lease_ms=5_000,
        request_us=1_000_000,
        request_burst_us=60_000_000,
    )
    wait_ms = await functions.admit_call(redis, root, paced)
    assert wait_ms is not None
    assert wait_ms <= 1_000


async def test_dead_workers_do_not_live_on(redis: Redis, redis_settings: RedisSettings) -> None:
    root = keys.system_root(redis_settings)
    now_ms = SystemClock().now_ms()
    await redis.call("ZADD", keys.REPORT_TIMES(root), now_ms + HOUR_MS, "dead")
    alive = WorkerReport(id="alive", concurrency=1, running=0, models=(), wire=1, made_ms=now_ms)
    await fleet.report(redis, redis_settings, alive)
    at = await redis.call("ZSCORE", keys.REPORT_TIMES(root), "dead")
    assert at <= now_ms + 10_000
