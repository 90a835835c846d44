"""When to look again: places in the queue, estimates, and hints that a client can obey."""

import asyncio

import pytest
from typing_extensions import override

from shared.clock import SystemClock
from shared.redis import keys
from tests.support import waiting
from tests.support.customer import Customer, body
from tests.support.provider import Answer, Provider
from tests.support.system import System

pytestmark = pytest.mark.each_once


class WrongClock(SystemClock):
    """A machine's clock that was set wrong; time passes on it as anywhere."""

    off_ms = 0

    @override
    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


async def test_places_count_the_accounts_own_lane(api: Customer, other: Customer) -> None:
    await other.ask("somebody else's")
    await api.ask("of the other lane", priority="batch")
    receipts = [await api.ask(f"m{n}") for n in range(4)]
    statuses = [await api.look(receipt) for receipt in receipts]
    assert [status["queue_position"] for status in statuses] == [0, 1, 2, 3]
    estimates = [status["eta_seconds"]["p50"] for status in statuses]
    assert estimates == sorted(estimates)
    assert estimates[3] > estimates[0]
    hints = [status["poll_interval_hint"] for status in statuses]
    assert hints == sorted(hints)
    body(await api.post(receipts[0]["cancel_url"]))
    body(await api.post(receipts[2]["cancel_url"]))
    statuses = [await api.look(receipts[n]) for n in (1, 3)]
    assert [status["queue_position"] for status in statuses] == [0, 1]


async def test_what_runs_is_not_ahead_of_what_waits(system: System, provider: Provider) -> None:
    system.change("worker", concurrency=1)
    await system.front()
    await system.worker()
    api = await system.customer()
    gate = asyncio.Event()
    provider.script.append(Answer(gate=gate))
    runs = await api.ask("runs")
    await waiting.until(lambda: provider.requests)
    waits = [await api.ask(f"m{n}") for n in range(2)]
    statuses = [await api.look(receipt) for receipt in (runs, *waits)]
    assert [status["queue_position"] for status in statuses] == [None, 0, 1]
    gate.set()
    for receipt in waits:
        assert (await api.end(receipt))["state"] == "completed"


async def test_a_turn_behind_another_of_its_session_has_a_place(api: Customer) -> None:
    first = await api.ask("a")
    second = await api.ask("b", session_id=first["session_id"])
    assert (await api.look(second))["queue_position"] == 1


async def test_hints_are_whole_seconds_from_1_to_30(api: Customer) -> None:
    receipts = [await api.ask(f"m{n}", model="alpha") for n in range(25)]
    statuses = [await api.look(receipt) for receipt in receipts]
    hints = [status["poll_interval_hint"] for status in statuses]
    assert all(isinstance(hint, int) for hint in hints)
    # A model of two seconds: soon for the first, and never more than half a minute.
    assert hints[0] in range(1, 4)
    assert hints[-1] == 30


@pytest.mark.parametrize(("kept", "longest"), [(8, 4), (1, 1)])
async def test_no_hint_leads_past_the_end_of_the_record(
    system: System, *, kept: int, longest: int
) -> None:
    system.change("retention", generation_seconds=kept)
    await system.front()
    api = await system.customer()
    receipts = [await api.ask(f"m{n}", model="alpha") for n in range(25)]
    assert receipts[-1]["poll_interval_hint"] == longest
    assert (await api.look(receipts[-1]))["poll_interval_hint"] == longest


async def test_a_receipt_knows_of_the_queue_before_it(api: Customer) -> None:
    receipts = [await api.ask(f"m{n}", model="alpha") for n in range(5)]
    hints = [receipt["poll_interval_hint"] for receipt in receipts]
    looked = [(await api.look(receipt))["poll_interval_hint"] for receipt in receipts]
    assert hints == looked


async def _eta(api: Customer, provider: Provider) -> float:
    """Return what is estimated to be left of an answer that has not begun to come."""
    provider.script.append(Answer(gate=asyncio.Event()))
    receipt = await api.ask("a", model="alpha")
    status = await api.look(receipt)
    body(await api.post(receipt["cancel_url"]))
    await api.end(receipt)
    return float(status["eta_seconds"]["p50"])


@pytest.mark.usefixtures("worker")
async def test_measured_times_take_the_catalogues_place(
    api: Customer, system: System, provider: Provider
) -> None:
    """A model that is said to take two seconds, and takes none, is soon known for it."""
    assert await _eta(api, provider) > 1
    # The one that was cancelled left its answer behind, unless it was cancelled before its call.
    provider.script.clear()
    for _ in range(3):
        await api.answer("a", model="alpha")
    system.clock.turn(5)
    assert await _eta(api, provider) <= 1


@pytest.mark.usefixtures("worker")
async def test_a_long_answer_is_asked_about_less_often(
    api: Customer, system: System, provider: Provider
) -> None:
    """Beyond all that is known, the hint grows with the time that has gone."""
    provider.script.append(Answer(gate=asyncio.Event()))
    receipt = await api.ask("a", model="alpha")
    await waiting.until(lambda: provider.requests)
    first = (await api.look(receipt))["poll_interval_hint"]
    root = system.accounts.root_of(await system.account())
    record = keys.GENERATION(root, "one", receipt["message_id"])
    await system.redis.call("HINCRBY", record, "started", -120_000)
    last = (await api.look(receipt))["poll_interval_hint"]
    assert first <= 3
    assert 10 <= last <= 30


@pytest.mark.usefixtures("worker")
async def test_hints_follow_the_clock_of_redis_not_the_fronts(
    system: System, provider: Provider
) -> None:
    """A front whose clock is minutes off tells the same as one whose clock is right."""
    clock = WrongClock()
    await system.front(clock)
    api = await system.customer()
    gate = asyncio.Event()
    provider.script.append(Answer(gate=gate))
    receipt = await api.ask("a", model="alpha")
    await waiting.until(lambda: provider.requests)
    for seconds in (0, 1200, -1200):
        clock.off_ms = seconds * 1000
        status = await api.look(receipt)
        assert status["state"] == "processing"
        assert status["poll_interval_hint"] <= 3
        assert status["eta_seconds"]["p90"] < 60
    gate.set()
    assert (await api.end(receipt))["state"] == "completed"


async def test_auto_starts_from_the_first_models_estimate(api: Customer) -> None:
    named = await api.ask("a", model="alpha")
    auto = await api.ask("a")
    first = await api.look(named)
    second = await api.look(auto)
    assert second["eta_seconds"]["p50"] == 2 * first["eta_seconds"]["p50"]
