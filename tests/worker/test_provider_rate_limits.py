"""A provider's limits in the pipeline: the fleet never exceeds them, and they fail no message."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from typing_extensions import override

from shared import ids
from shared.catalogue import Catalogue
from shared.errors import CallBlockedError, Failure, ProviderError, UnavailableError
from shared.redis import keys
from shared.redis.client import Argument, Reply
from shared.settings import Settings
from shared.wire.routing import StoredRouting
from tests.support import waiting
from tests.support.scripted_provider import Request, ScriptedAnswer, ScriptedProvider, by_words
from tests.support.system import System
from tests.worker.front import Front
from tests.worker.lossy_redis import LossyRedis
from tests.worker.running_workers import running_worker
from tests.worker.single_attempts import ANN, Attempts
from worker.providers.registry import Registry
from worker.resilience.circuit_breaker import UpstreamCall
from worker.resilience.circuits import Caller


def _apart(settings: Settings, most: int) -> Settings:
    """Give the second model a provider of its own, and the first one's a limit."""
    first, second = settings.providers
    alpha, beta, gamma = settings.models
    return msgspec.structs.replace(
        settings,
        providers=(
            msgspec.structs.replace(first, concurrency_max=most),
            msgspec.structs.replace(second, api_key_env=None),
        ),
        models=(alpha, msgspec.structs.replace(beta, provider="keyless"), gamma),
    )


def _most_at_once(requests: list[Request], is_counted: Callable[[Request], bool]) -> int:
    moments = sorted(
        moment
        for request in requests
        if is_counted(request)
        for moment in ((request.came_at, 1), (request.answered_at or 0.0, -1))
    )
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


@pytest.mark.timeout(60)
async def test_two_workers_never_exceed_a_provider_s_concurrency(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.answer = lambda _: ScriptedAnswer(text="Two", first_seconds=0.02)
    providers = tuple(
        msgspec.structs.replace(each, concurrency_max=4) for each in system.settings.providers
    )
    system.settings = msgspec.structs.replace(system.settings, providers=providers)
    async with running_worker(system), running_worker(system):
        tickets = [
            await front.submit(f"{lane} {n}", account=f"a{n % 7}", lane=lane, model="alpha")
            for n in range(20)
            for lane in ("interactive", "batch")
        ]
        ended = [await front.end(ticket, 40) for ticket in tickets]
        records = [await front.record(ticket) for ticket in tickets]
    assert {each.stage for each in ended} == {"completed"}
    assert {record.get("retries") for record in records} == {None}
    assert len(provider.requests) == len(tickets)
    assert 1 < _most_at_once(provider.requests, lambda _: True) <= 4
    assert _most_at_once(provider.requests, lambda each: each.last.startswith("batch")) <= 3


async def test_auto_does_not_wait_for_room_where_another_model_has_some(
    attempts: Attempts, front: Front
) -> None:
    attempts.settings = _apart(attempts.settings, 1)
    alpha = attempts.settings.models[0]
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
        ended = await attempts.ended("hello")
        ticket = await front.submit(model="alpha")
        await attempts.run(ticket)
        record = await front.record(ticket)
    assert ended.assistant is not None
    kept = ended.assistant.routing
    assert isinstance(kept, StoredRouting)
    assert [each.excluded_by for each in kept.restored().candidates] == ["busy", None, None]
    assert (record["stage"], record["waits"], record.get("retries")) == ("retrying", "1", None)
    await front.hasten(ticket)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"


async def test_model_without_room_is_worth_the_wait_when_the_others_fail(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.settings = _apart(attempts.settings, 1)
    alpha = attempts.settings.models[0]
    provider.answer = lambda _: ScriptedAnswer(status=401)
    ticket = await front.submit("hello")
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
        await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "retrying"
    provider.answer = by_words
    await front.hasten(ticket)
    await attempts.run(ticket)
    assert (await front.poll(ticket)).stage == "completed"


async def test_a_turn_that_has_made_all_its_calls_waits_for_no_room(
    attempts: Attempts, front: Front, provider: ScriptedProvider
) -> None:
    attempts.settings = _apart(attempts.settings, 1)
    alpha = attempts.settings.models[0]
    provider.answer = lambda _: ScriptedAnswer(status=500)
    ticket = await front.submit("hello")
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
        for _ in range(5):
            await attempts.run(ticket)
            if (await front.poll(ticket)).is_final:
                break
            await front.hasten(ticket)
            await front.thaw(attempts.circuit_breaker)
    assert (await front.poll(ticket)).stage == "failed"
    assert len(provider.requests) == 6


async def test_room_is_given_back_whatever_the_end(attempts: Attempts, front: Front) -> None:
    attempts.change_providers(concurrency_max=1)
    alpha = attempts.settings.models[0]
    slots = keys.SLOTS(keys.system_root(attempts.settings.redis), "scripted", "interactive")
    failure = Failure(message="No.", category="timeout", code="X")
    for error in (ProviderError(failure), ValueError("ours"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
                raise error
    assert await front.redis.call("EXISTS", slots) == 0
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
        assert len(attempts.circuit_breaker.take_report().slots) == 1
        with pytest.raises(CallBlockedError):
            async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
                pass
    assert attempts.circuit_breaker.take_report().slots == ()


async def test_room_taken_before_a_reload_removed_its_provider_is_given_back(
    attempts: Attempts, front: Front
) -> None:
    attempts.change_providers(concurrency_max=1)
    slots = keys.SLOTS(keys.system_root(attempts.settings.redis), "scripted", "interactive")
    before = attempts.circuit_breaker
    [provider, *_] = attempts.settings.providers
    assert await before.rate_limiter.take_permit(provider, "interactive") is None
    assert await front.redis.call("EXISTS", slots) == 1
    registry = Registry(Catalogue(attempts.settings.providers[1:], ()), {})
    after = before.with_registry(registry)
    limiter = after.rate_limiter
    assert limiter.return_permits(limiter.permits.take_unused(math.inf)) == {"scripted"}
    assert await front.redis.call("EXISTS", slots) == 0
    await registry.close()


async def test_a_call_without_room_takes_no_turn_at_a_throttled_provider(
    attempts: Attempts, front: Front
) -> None:
    attempts.change_providers(concurrency_max=1)
    asked: list[Argument] = []

    class WatchedRedis(LossyRedis):
        @override
        async def call(self, *command: Argument, repeat: bool = True) -> Reply:
            asked.append(command[1])
            return await super().call(*command, repeat=repeat)

    attempts.redis = WatchedRedis(front.redis)
    alpha = attempts.settings.models[0]
    limited = ProviderError(
        Failure(message="No.", category="rate_limit", code="PROVIDER_RATE_LIMITED"),
        retry_after_seconds=0.001,
    )
    with pytest.raises(ProviderError, match=r"No\."):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            raise limited
    again = Caller(ids.new_id(), ids.new_id(), is_again=True)

    async def entered() -> UpstreamCall | None:
        call = attempts.circuit_breaker.call(alpha, again, lane="interactive", tokens=1)
        with suppress(CallBlockedError):
            return await call.__aenter__()
        return None

    first = await waiting.until(entered, what="the end of the pause")
    asked.clear()
    assert await entered() is None
    assert [str(name).split("_", 2)[2] for name in asked] == ["admit_call"]
    await first.__aexit__(None, None, None)


async def test_a_call_that_waited_for_its_time_in_the_slot_comes_again(
    attempts: Attempts, front: Front
) -> None:
    asks: list[bool] = []

    class WatchedRedis(LossyRedis):
        @override
        async def call(self, *command: Argument, repeat: bool = True) -> Reply:
            if str(command[1]).endswith("_admit_throttled"):
                assert isinstance(command[4], bytes)
                asks.append(bool(msgspec.msgpack.decode(command[4]).get("is_again")))
            return await super().call(*command, repeat=repeat)

    attempts.redis = WatchedRedis(front.redis)
    alpha = attempts.settings.models[0]
    limited = ProviderError(
        Failure(message="No.", category="rate_limit", code="PROVIDER_RATE_LIMITED"),
        retry_after_seconds=0.5,
    )
    with pytest.raises(ProviderError, match=r"No\."):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            raise limited
    ticket = await front.submit(model="alpha")
    await attempts.run(ticket)
    await front.cancel(ticket)
    assert asks[0] is False
    assert set(asks[1:]) == {True}


async def test_a_call_that_a_throttle_blocks_gives_its_room_back(attempts: Attempts) -> None:
    attempts.change_providers(concurrency_max=2, requests_per_minute=10_000)
    alpha = attempts.settings.models[0]
    root = keys.system_root(attempts.settings.redis)
    limited = ProviderError(
        Failure(message="No.", category="rate_limit", code="PROVIDER_RATE_LIMITED"),
        retry_after_seconds=30.0,
    )
    with pytest.raises(ProviderError, match=r"No\."):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            raise limited
    requests = await attempts.redis.call("HGET", keys.RATES(root, "scripted"), "requests")
    with pytest.raises(CallBlockedError):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            pass
    await attempts.redis.call("PING")
    assert attempts.circuit_breaker.take_report().slots == ()
    assert await attempts.redis.call("EXISTS", keys.SLOTS(root, "scripted", "interactive")) == 0
    after = await attempts.redis.call("HGET", keys.RATES(root, "scripted"), "requests")
    # What was taken for it was given back, to the time at which it was taken.
    assert int(after) - int(requests) < 60_000_000


async def test_tokens_that_were_not_used_are_given_back(attempts: Attempts) -> None:
    attempts.change_providers(tokens_per_minute=1_000)
    for _ in range(12):
        # Each reserves 64 and more and takes 8, of 250 that may come at once.
        assert (await attempts.ended("hello", model="alpha")).stage == "completed"


async def test_a_call_that_only_asks_for_room_is_not_kept_as_one_that_has_it(
    attempts: Attempts, front: Front
) -> None:
    attempts.change_providers(concurrency_max=1)
    alpha, reported_slots = attempts.settings.models[0], []

    class WatchedRedis(LossyRedis):
        @override
        async def call(self, *command: Argument, repeat: bool = True) -> Reply:
            reply = await super().call(*command, repeat=repeat)
            # A report that is made up before the answer is read.
            reported_slots.append(attempts.circuit_breaker.take_report().slots)
            return reply

    attempts.redis = WatchedRedis(front.redis)
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1) as call:
        with pytest.raises(CallBlockedError):
            async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
                pass
        assert [len(slots) for slots in reported_slots] == [0, 1]
        assert {slot[2] for slots in reported_slots for slot in slots} == {call.id}


async def test_room_that_was_given_in_a_lost_reply_is_given_back(
    attempts: Attempts, front: Front
) -> None:
    attempts.change_providers(concurrency_max=1)
    alpha = attempts.settings.models[0]
    lossy_redis = LossyRedis(front.redis, "admit_call")
    lossy_redis.troubles.append("unanswered")
    attempts.redis = lossy_redis
    with pytest.raises(UnavailableError):
        async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
            pass
    async with attempts.circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1):
        assert len(attempts.circuit_breaker.take_report().slots) == 1
