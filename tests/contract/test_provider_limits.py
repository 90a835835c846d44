"""A provider's limits: slots, requests and tokens, taken together by one worker at a time."""

import asyncio
import time
from typing import Any

import pytest

from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.settings import ProviderSettings, RedisSettings
from shared.stores import fleet
from shared.stores.fleet import CallReport
from shared.wire.fleet import WorkerReport
from shared.wire.submission import LANES, Lane
from worker.providers.contract import TOKENS_MAX
from worker.resilience.provider_rate_limits import ProviderRateLimits

_LEASE_MS = 5_000


class LimitClient:
    """One provider's limits, with the usual arguments filled in."""

    def __init__(self, redis: Redis, settings: RedisSettings, **limits: Any) -> None:  # noqa: ANN401  of any field
        provider = ProviderSettings(name="p", base_url="http://127.0.0.1:9", **limits)
        self.redis = redis
        self.settings = settings
        self.root = keys.system_root(settings)
        self.limits = ProviderRateLimits(provider)

    async def admit(
        self, call: str, lane: Lane = "interactive", *, tokens: int = 0, lease_ms: int = _LEASE_MS
    ) -> int | None:
        """Ask to make a call."""
        ask = self.limits.admit_ask(call, lane, tokens, lease_ms)
        return await functions.admit_call(self.redis, self.root, ask)

    def depart(
        self, call: str, lane: Lane = "interactive", *, tokens: int = 0, used: int | None = 0
    ) -> None:
        """End a call."""
        functions.end_call(self.redis, self.root, self.limits.depart_ask(call, lane, tokens, used))

    async def count(self) -> int:
        """Return how many slots are taken."""
        lanes = [keys.SLOTS(self.root, "p", lane) for lane in LANES]
        return sum([await self.redis.call("ZCARD", lane) for lane in lanes])

    async def pass_minute(self, ms: int) -> None:
        """Shift the stored arrival times as if so much time had passed."""
        name = keys.RATES(self.root, "p")
        for field in ("requests", "tokens"):
            if await self.redis.call("HEXISTS", name, field):
                await self.redis.call("HINCRBY", name, field, -ms * 1000)


@pytest.fixture
def opened(redis: Redis, redis_settings: RedisSettings) -> Any:  # noqa: ANN401  a maker of doors
    def make(**limits: Any) -> LimitClient:  # noqa: ANN401  of any field
        return LimitClient(redis, redis_settings, **limits)

    return make


async def test_no_more_at_once_than_allowed(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=3)
    found = await asyncio.gather(*(limits.admit(f"c{n}") for n in range(20)))
    assert found.count(None) == 3
    assert set(found) == {None, 0}
    limits.depart("c0")
    limits.depart("c0")
    assert await limits.admit("next") is None
    assert await limits.admit("another") == 0


async def test_repeated_admission_takes_nothing_more(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=2, requests_per_minute=1)
    assert [await limits.admit("c") for _ in range(3)] == [None] * 3
    assert await limits.count() == 1


async def test_batch_work_leaves_room_for_interactive_work(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=4)
    batch = [await limits.admit(f"b{n}", "batch") for n in range(5)]
    assert batch == [None, None, None, 0, 0]
    assert [await limits.admit(f"i{n}") for n in range(2)] == [None, 0]
    limits.depart("b0", "batch")
    assert await limits.admit("i2") is None
    assert await limits.admit("b9", "batch") == 0


async def test_batch_work_does_not_starve_where_interactive_calls_take_all_slots(
    opened: Any,  # noqa: ANN401  a maker of doors
) -> None:
    limits = opened(concurrency_max=3)
    assert [await limits.admit(f"i{n}") for n in range(3)] == [None] * 3
    assert await limits.admit("b0", "batch") == 0
    limits.depart("i0")
    assert await limits.admit("i3") == 0
    assert await limits.admit("b0", "batch") is None
    # It has had its slot, and no other batch waits.
    limits.depart("b0", "batch")
    assert await limits.admit("i3") is None


async def test_slot_is_left_for_a_batch_only_as_long_as_that_may_come_back(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=2)
    assert [await limits.admit(f"i{n}") for n in range(2)] == [None, None]
    assert await limits.admit("b0", "batch") == 0
    limits.depart("i0")
    assert await limits.admit("i2") == 0
    await limits.redis.call("HINCRBY", keys.RATES(limits.root, "p"), "batch", -35_000)
    assert await limits.admit("i2") is None


async def test_interactive_call_may_take_the_only_slot(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=1)
    assert await limits.admit("i0") is None
    assert await limits.admit("b0", "batch") == 0
    limits.depart("i0")
    assert await limits.admit("i1") is None


async def test_batch_call_may_take_the_only_slot(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    assert await opened(concurrency_max=1).admit("b", "batch") is None


async def test_slots_of_a_dead_worker_expire(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=1)
    assert await limits.admit("dead") is None
    assert await limits.admit("c") == 0
    await limits.redis.call("ZADD", keys.SLOTS(limits.root, "p", "interactive"), 1, "dead")
    assert await limits.admit("c") is None
    assert await limits.count() == 1


async def test_report_keeps_the_slots_of_calls_under_way(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=1)
    assert await limits.admit("long", lease_ms=60) is None
    worker_report = WorkerReport(id="w1", concurrency=1, running=1, models=(), wire=1)
    calls = CallReport(slots=(("p", "interactive", "long"),), lease_ms=_LEASE_MS, window_ms=1)
    await fleet.report(limits.redis, limits.settings, worker_report, calls)
    name = keys.SLOTS(limits.root, "p", "interactive")
    ends = float(await limits.redis.call("ZSCORE", name, "long"))
    seconds, _ = await limits.redis.call("TIME")
    assert ends > int(seconds) * 1000 + 2_000


async def test_no_minute_sees_more_requests_than_allowed(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(requests_per_minute=60)
    times, turned, began = [], 0, time.monotonic()
    for number in range(200):
        wait = await limits.admit(f"c{number}")
        if wait is None:
            times.append(turned + (time.monotonic() - began) * 1000)
        else:
            assert 0 < wait <= 1_100
            await limits.pass_minute(wait)
            turned += wait
    for begin in times:
        # Half a second of tolerance for a slow machine, which reads an admission late.
        assert sum(begin <= moment < begin + 59_500 for moment in times) <= 60
    assert times[-1] < 1_100 * len(times)


async def test_the_request_of_a_call_that_was_not_made_is_given_back(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(requests_per_minute=10)
    assert await limits.admit("a") is None
    limits.depart("a", used=None)
    limits.depart("a", used=None)
    assert await limits.admit("b") is None
    limits.depart("b")
    assert await limits.admit("c") is not None


async def test_tokens_are_reserved_and_corrected(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(tokens_per_minute=4_000)
    assert await limits.admit("a", tokens=600) is None
    wait = await limits.admit("b", tokens=600)
    assert wait is not None
    # 200 tokens too many, at 3,000 a minute.
    assert 3_000 < wait <= 4_000
    limits.depart("a", tokens=600, used=100)
    limits.depart("a", tokens=600, used=100)
    assert await limits.admit("b", tokens=600) is None
    assert await limits.admit("c", tokens=400) is not None


async def test_tokens_beyond_the_estimate_are_counted_later(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(tokens_per_minute=4_000)
    assert await limits.admit("a", tokens=10) is None
    limits.depart("a", tokens=10, used=3_000)
    wait = await limits.admit("b", tokens=10)
    assert wait is not None
    assert 35_000 < wait <= 41_000


async def test_one_call_cannot_block_a_provider_for_days(
    opened: Any,  # noqa: ANN401  a maker of doors
) -> None:
    limits = opened(tokens_per_minute=4_000)
    assert await limits.admit("a", tokens=10) is None
    limits.depart("a", tokens=10, used=TOKENS_MAX)
    wait = await limits.admit("b", tokens=10)
    assert wait is not None
    assert 60_000 < wait <= 300_000
    assert await limits.redis.call("PTTL", keys.RATES(limits.root, "p")) <= 400_000


async def test_call_larger_than_the_burst_waits_for_all_of_it_but_not_for_ever(
    opened: Any,  # noqa: ANN401  a maker of doors
) -> None:
    limits = opened(tokens_per_minute=4_000)
    assert await limits.admit("large", tokens=100_000) is None
    assert await limits.admit("next", tokens=1_000) is not None


async def test_call_that_one_limit_refuses_takes_nothing_from_the_others(opened: Any) -> None:  # noqa: ANN401  a maker of doors
    limits = opened(concurrency_max=9, requests_per_minute=600, tokens_per_minute=4_000)
    assert await limits.admit("a", tokens=1_000) is None
    before = await limits.redis.call("HGETALL", keys.RATES(limits.root, "p"))
    for number in range(5):
        assert await limits.admit(f"c{number}", tokens=1_000)
    assert await limits.redis.call("HGETALL", keys.RATES(limits.root, "p")) == before
    assert await limits.count() == 1
