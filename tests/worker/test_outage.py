"""Workers while Redis is stopped, killed, started again, or has forgotten its functions."""

import asyncio

import msgspec
import pytest

from shared.redis import keys
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, Ticket, text_of
from tests.worker.running_workers import running_worker, started

_EXPECTED = (
    "waiting for Redis",
    "a beat was missed",
    "leaving unannounced",
    "Redis fell silent",
)


@pytest.fixture(autouse=True)
def _impatient(own_system: System) -> None:
    """Use short timeouts, and expect the log lines of an outage."""
    redis = msgspec.structs.replace(own_system.settings.redis, timeout_seconds=0.4)
    own_system.settings = msgspec.structs.replace(own_system.settings, redis=redis)
    own_system.expected |= {*_EXPECTED, "the listener is away", "the listener is back"}


async def _whole(front: Front, ticket: Ticket, text: str) -> None:
    """Check that an answer is complete, without gaps, and of the first attempt."""
    ended, stream_events = await front.end(ticket), await front.stream_events(ticket)
    assert (ended.stage, ended.text, ended.attempt) == ("completed", text, 1)
    assert text_of(stream_events) == text
    assert [each.seq for each in stream_events] == list(range(1, len(stream_events) + 1))
    credit_totals = await front.credit_totals()
    assert (credit_totals.held, credit_totals.settled) == (0, ended.captured)


async def _begun(front: Front, provider: ScriptedProvider) -> tuple[Ticket, asyncio.Event, str]:
    """Return a half-streamed generation, the event that continues it, and its whole answer."""
    gate = asyncio.Event()
    text = " ".join(f"word{number}" for number in range(40))
    provider.script.append(ScriptedAnswer(text=text, gate=gate, gate_after=20))
    ticket = await front.submit()
    await front.seen(ticket, lambda found: "word19" in found.text)
    return ticket, gate, text


async def test_answer_that_ends_while_redis_is_stopped_is_kept(
    own_system: System, own_front: Front, own_server: Server, provider: ScriptedProvider
) -> None:
    async with running_worker(own_system):
        ticket, gate, text = await _begun(own_front, provider)
        own_server.pause()
        gate.set()
        await asyncio.wait_for(provider.requests[0].ended.wait(), 5)
        await _warned(own_system, 3)
        own_server.resume()
        await _whole(own_front, ticket, text)


async def test_answer_that_ends_while_redis_is_away_is_kept(
    own_system: System, own_front: Front, own_server: Server, provider: ScriptedProvider
) -> None:
    async with running_worker(own_system):
        ticket, gate, text = await _begun(own_front, provider)
        own_server.kill()
        gate.set()
        await asyncio.wait_for(provider.requests[0].ended.wait(), 5)
        await _warned(own_system, 3)
        own_server.start()
        await _whole(own_front, ticket, text)


async def test_patience_shorter_than_the_idle_time_is_no_trouble(
    own_system: System, own_front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_worker(own_system) as worker:
        rings = 0
        wait = worker.claims._wait_for_wakeup

        async def counted() -> bool:
            nonlocal rings
            is_more = await wait()
            rings += 1
            return is_more

        monkeypatch.setattr(worker.claims, "_wait_for_wakeup", counted)
        await own_front.end(await own_front.submit())
        await until(lambda: rings >= 3)
    assert [line for line in own_system.lines if line["event"] in _EXPECTED] == []


async def test_worker_goes_on_as_before_after_redis_was_away(
    own_system: System, own_front: Front, own_server: Server, provider: ScriptedProvider
) -> None:
    async with running_worker(own_system):
        await own_front.end(await own_front.submit())
        own_server.kill()
        await _warned(own_system, 2)
        own_server.start()
        await own_front.end(await own_front.submit())
        provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
        ticket = await own_front.submit()
        await until(lambda: len(provider.requests) == 3)
        await own_front.cancel(ticket)
        assert (await own_front.end(ticket, 3)).stage == "cancelled"


async def test_functions_that_redis_has_forgotten_are_loaded_again(
    own_system: System, own_front: Front, provider: ScriptedProvider
) -> None:
    own_system.expected.add("Redis had lost its functions")
    async with running_worker(own_system):
        ticket, gate, text = await _begun(own_front, provider)
        await own_front.redis.call("FUNCTION", "FLUSH")
        gate.set()
        await _whole(own_front, ticket, text)
        await own_front.redis.call("FUNCTION", "FLUSH")
        assert (await own_front.end(await own_front.submit())).stage == "completed"


async def test_worker_that_was_forgotten_says_so_and_serves_on(
    own_system: System, own_front: Front
) -> None:
    forgotten = "this worker was forgotten"
    own_system.expected.add(forgotten)
    async with running_worker(own_system):
        await own_front.end(await own_front.submit())
        await until(lambda: _reported(own_system, own_front))
        await own_front.redis.call("FLUSHALL")
        stream_events = await until(
            lambda: [x for x in own_system.lines if x["event"] == forgotten]
        )
        assert [line["log_level"] for line in stream_events] == ["warning"]
        ticket = await own_front.submit(account="newcomer")
        assert (await own_front.end(ticket)).stage == "completed"


async def _reported(system: System, front: Front) -> bool:
    pulses = keys.REPORT_TIMES(keys.system_root(system.settings.redis))
    return bool(await front.redis.call("ZCARD", pulses))


async def test_worker_that_is_asked_to_stop_while_redis_is_away_goes(
    own_system: System, own_front: Front, own_server: Server, provider: ScriptedProvider
) -> None:
    own_system.change("worker", lease_seconds=0.5)
    own_system.expected.add("attempts are left to their leases")
    own_system.expected.add("reaped")
    async with started(own_system) as (worker, running):
        ticket, _, _ = await _begun(own_front, provider)
        own_server.kill()
        worker.begin_drain()
        await asyncio.wait_for(running, 10)
    own_server.start()
    provider.answer = lambda _: ScriptedAnswer(text="new answer")
    async with running_worker(own_system):
        ended = await own_front.end(ticket)
    assert (ended.stage, ended.text, ended.attempt) == ("completed", "new answer", 2)


async def _warned(system: System, times: int) -> None:
    """Wait until workers have been without Redis so often."""
    before = len([line for line in system.lines if line["event"] in _EXPECTED])

    def have_warned() -> bool:
        return len([line for line in system.lines if line["event"] in _EXPECTED]) >= before + times

    await until(have_warned, what="trouble with Redis")
