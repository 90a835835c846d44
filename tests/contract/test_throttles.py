"""The rate of calls that a provider accepts is learned from refusals, and expires."""

from typing import Final

import pytest

from shared.clock import SystemClock
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import AdmitThrottledAsk, RecordRefusalAsk
from shared.settings import RedisSettings

_CIRCUIT: Final = "scripted/alpha/open"
_TURN: Final = AdmitThrottledAsk(circuit=_CIRCUIT, lane="batch")
_AGAIN: Final = AdmitThrottledAsk(circuit=_CIRCUIT, lane="batch", is_again=True)
_SECOND_US: Final = 1_000_000


@pytest.fixture
def root(redis_settings: RedisSettings) -> str:
    """Return the root of the keys that belong to no account."""
    return keys.system_root(redis_settings)


async def _refuse(redis: Redis, root: str, *, taken: int, retry_after_ms: int | None = None) -> int:
    ask = RecordRefusalAsk(circuit=_CIRCUIT, taken=taken, taken_ms=0, retry_after_ms=retry_after_ms)
    return await functions.record_refusal(redis, root, ask)


async def _pass(redis: Redis, root: str, seconds: float, *fields: str) -> None:
    """Shift the stored times as if so much time had passed."""
    for field in fields:
        await redis.call(
            "HINCRBY", keys.THROTTLE(root, _CIRCUIT), field, -int(seconds * _SECOND_US)
        )


async def _interval_seconds(redis: Redis, root: str) -> float:
    found = await redis.call("HGET", keys.THROTTLE(root, _CIRCUIT), "interval")
    return int(found) / _SECOND_US


async def test_rate_is_learned_of_calls_that_were_sent_and_not_refused(
    redis: Redis, root: str
) -> None:
    # Of 35 calls sent at once ten are accepted, and the refusals come before any answer.
    assert await _refuse(redis, root, taken=34, retry_after_ms=9_000) == 9_000
    for taken in range(33, 9, -1):
        assert 0 < await _refuse(redis, root, taken=taken, retry_after_ms=9_000) <= 9_010
    assert (await functions.admit_throttled(redis, root, _TURN)).wait_ms is not None
    await _pass(redis, root, 10, "shut", "since", "refused")
    assert (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms is None
    assert 0.9 < await _interval_seconds(redis, root) < 1.2


async def test_rate_is_halved_at_most_by_a_refusal(redis: Redis, root: str) -> None:
    await _refuse(redis, root, taken=10, retry_after_ms=9_000)
    await _pass(redis, root, 10, "shut", "since", "refused")
    await functions.admit_throttled(redis, root, _TURN)
    before = await _interval_seconds(redis, root)
    # Nobody called for minutes, so that the next call is refused says little about the rate.
    await _pass(redis, root, 200, "shut", "since", "refused", "fresh", "next")
    await functions.admit_throttled(redis, root, _TURN)
    # The first may be by chance.
    for _ in range(2):
        await _refuse(redis, root, taken=0, retry_after_ms=1_000)
    await _pass(redis, root, 2, "shut", "since", "refused", "next")
    await functions.admit_throttled(redis, root, _TURN)
    assert before < await _interval_seconds(redis, root) <= 2 * before + 0.1


async def test_rate_rises_ever_faster_while_nothing_is_refused(redis: Redis, root: str) -> None:
    now = SystemClock().now_ms() * 1000
    rises = []
    for refused_seconds, calls in ((10, 40), (100, 140)):
        state = {
            "shut": now - 5 * _SECOND_US,
            "refused": now - refused_seconds * _SECOND_US,
            "next": now - 1,
            "interval": 5 * _SECOND_US,
            "known": 30,
            "low": calls,
            "count": 3,
            "since": now - 10 * _SECOND_US,
        }
        name = keys.THROTTLE(root, _CIRCUIT)
        await redis.call("HSET", name, *(part for pair in state.items() for part in pair))
        assert (await functions.admit_throttled(redis, root, _TURN)).wait_ms is None
        rises.append(5 - await _interval_seconds(redis, root))
    slow, fast = rises
    assert 0 < 2 * slow < fast


async def _learn(redis: Redis, root: str) -> None:
    """Learn a rate of 0.9 calls a second, and make two calls at it."""
    await _refuse(redis, root, taken=10, retry_after_ms=9_000)
    await _pass(redis, root, 10, "shut", "since", "refused")
    for _ in range(2):
        assert (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms is None
        await _pass(redis, root, 2, "next")


async def test_a_refusal_at_a_rate_that_was_accepted_pauses_nobody(redis: Redis, root: str) -> None:
    await _learn(redis, root)
    # The refused message waits for its Retry-After, the others go on.
    assert await _refuse(redis, root, taken=0, retry_after_ms=30_000) == 30_000
    assert (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms is None


async def test_refusals_in_a_row_show_a_limit_at_any_rate(redis: Redis, root: str) -> None:
    await _learn(redis, root)
    for _ in range(3):
        await _refuse(redis, root, taken=0, retry_after_ms=30_000)
    wait = (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms
    assert wait is not None
    assert 29_000 < wait <= 30_000


async def test_calls_before_a_long_pause_count_after_it(redis: Redis, root: str) -> None:
    ask = RecordRefusalAsk(circuit=_CIRCUIT, taken=20, taken_ms=1_000, minute=600, minute_ms=30_000)
    await functions.record_refusal(redis, root, ask)
    # As if the first call after the pause had been refused again and again.
    await _pass(redis, root, 29, "since", "since_minute")
    await _pass(redis, root, 1.1, "since", "since_minute", "shut", "refused")
    assert (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms is None
    # 600 calls in a minute and not 20 in half a minute, less a tenth.
    assert 0.1 < await _interval_seconds(redis, root) < 0.12


async def test_a_stray_refusal_at_little_demand_slows_nobody_for_long(
    redis: Redis, root: str
) -> None:
    ask = RecordRefusalAsk(circuit=_CIRCUIT, taken=1, taken_ms=55_000)
    assert await functions.record_refusal(redis, root, ask) == 1_000
    await _pass(redis, root, 1, "shut", "since", "refused")
    assert (await functions.admit_throttled(redis, root, _TURN)).wait_ms is None
    waits = [(await functions.admit_throttled(redis, root, _TURN)).wait_ms or 0 for _ in range(3)]
    assert waits[0] <= 2_000
    assert waits[2] <= 6_000


async def test_long_retry_after_does_not_expire_before_it_is_over(redis: Redis, root: str) -> None:
    await _refuse(redis, root, taken=10, retry_after_ms=3_600_000)
    await _pass(redis, root, 400, "shut", "since", "refused")
    turn = await functions.admit_throttled(redis, root, _TURN)
    assert turn.wait_ms is not None
    assert not turn.is_no_longer_throttled


async def test_no_time_is_reserved_for_a_caller_that_tries_another_model(
    redis: Redis, root: str
) -> None:
    await _refuse(redis, root, taken=10, retry_after_ms=9_000)
    passing = AdmitThrottledAsk(circuit=_CIRCUIT, lane="interactive", passes_over=True)
    for _ in range(150):
        assert (await functions.admit_throttled(redis, root, passing)).wait_ms
    wait = (await functions.admit_throttled(redis, root, _TURN)).wait_ms
    assert wait is not None
    assert wait <= 9_000


async def test_new_caller_takes_no_place_of_those_with_a_time(redis: Redis, root: str) -> None:
    await _refuse(redis, root, taken=10, retry_after_ms=9_000)
    for _ in range(5):
        await functions.admit_throttled(redis, root, _TURN)
    await _pass(redis, root, 9.1, "shut", "since", "refused")
    booked = int(await redis.call("HGET", keys.THROTTLE(root, _CIRCUIT), "booked_batch"))
    now = SystemClock().now_ms() * 1000
    # The first of the five comes at its time, and a new caller at the same moment.
    await redis.call(
        "HSET", keys.THROTTLE(root, _CIRCUIT), "booked_batch", max(booked, now) + 4 * _SECOND_US
    )
    new = (await functions.admit_throttled(redis, root, _TURN)).wait_ms
    assert new is not None
    assert new > 3_000
    assert (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms is None


async def test_each_refused_caller_gets_a_time_of_its_own(redis: Redis, root: str) -> None:
    await _refuse(redis, root, taken=10, retry_after_ms=9_000)
    waits = [(await functions.admit_throttled(redis, root, _TURN)).wait_ms for _ in range(5)]
    assert all(wait is not None for wait in waits)
    assert waits == sorted(waits, key=lambda wait: wait or 0)
    assert len(set(waits)) == len(waits)


async def test_clock_that_was_set_back_delays_no_caller(redis: Redis, root: str) -> None:
    await _refuse(redis, root, taken=10, retry_after_ms=2_000)
    # As if the clock had been half a minute ahead then, and the refusal some time ago.
    await _pass(redis, root, -30, "shut")
    await _pass(redis, root, 60, "refused")
    wait = (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms
    assert wait is not None
    assert wait <= 2_000


async def _spent(redis: Redis, root: str, *, retry_after_ms: int = 9_000) -> None:
    ask = RecordRefusalAsk(
        circuit=_CIRCUIT, taken=10, taken_ms=1_000, retry_after_ms=retry_after_ms, is_spent=True
    )
    await functions.record_refusal(redis, root, ask)


async def test_used_up_calls_start_a_pause_without_a_refusal(redis: Redis, root: str) -> None:
    await _spent(redis, root)
    wait = (await functions.admit_throttled(redis, root, _TURN)).wait_ms
    assert wait is not None
    assert 8_000 < wait <= 9_000
    await _pass(redis, root, 9.1, "shut", "since", "refused")
    assert (await functions.admit_throttled(redis, root, _AGAIN)).wait_ms is None
    # Ten calls in ten seconds were accepted; a call that was not refused is not subtracted.
    assert 1.0 < await _interval_seconds(redis, root) < 1.2


async def test_answer_of_another_worker_makes_no_pause_longer(redis: Redis, root: str) -> None:
    await _spent(redis, root)
    await _spent(redis, root, retry_after_ms=60_000)
    wait = (await functions.admit_throttled(redis, root, _TURN)).wait_ms
    assert wait is not None
    assert wait <= 9_000


async def test_throttle_of_wrong_headers_ends_unless_a_call_was_refused(
    redis: Redis, root: str
) -> None:
    false = RecordRefusalAsk(circuit=_CIRCUIT, taken=0, taken_ms=0, is_false=True)
    await _spent(redis, root)
    await functions.record_refusal(redis, root, false)
    assert (await functions.admit_throttled(redis, root, _TURN)).is_no_longer_throttled
    await _spent(redis, root)
    await _refuse(redis, root, taken=10, retry_after_ms=2_000)
    await functions.record_refusal(redis, root, false)
    assert (await functions.admit_throttled(redis, root, _TURN)).wait_ms is not None
