"""When to poll: queue positions, ETAs, and hints that a client can obey."""

import asyncio
from typing import cast

import pytest
from typing_extensions import override

from api.polling.eta import ModelDurations
from shared.catalogue import Catalogue, CatalogueHolder
from shared.clock import SystemClock
from shared.redis import keys
from shared.stores import fleet
from shared.wire.fleet import WorkerReport
from shared.wire.submission import AUTO
from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System


class WrongClock(SystemClock):
    """A clock that is minutes off; time passes on it as usual."""

    off_ms = 0

    @override
    def now_ms(self) -> int:
        return super().now_ms() + self.off_ms


async def _promise_worker(system: System, *, slots: int = 1, running: int = 0) -> None:
    """Report a worker that claims nothing and stays alive for minutes."""
    models = tuple(model.identifier for model in system.settings.models)
    worker_report = WorkerReport(
        id="promised", concurrency=slots, running=running, models=models, wire=1
    )
    await fleet.report(system.redis, system.settings.redis, worker_report)
    worker_reports = keys.REPORT_TIMES(keys.system_root(system.settings.redis))
    await system.redis.call(
        "ZADD", worker_reports, system.clock.now_ms() + 600_000, worker_report.id
    )


async def _submit_and_poll(api: ApiClient, count: int, **fields: object) -> list[tuple[Json, Json]]:
    """Send messages, and poll each once it is accepted; return receipts and statuses."""
    found = []
    for number in range(count):
        receipt = await api.submit(f"m{number}", **fields)
        found.append((receipt, await api.poll(receipt)))
    return found


async def test_places_count_the_accounts_own_lane(
    api: ApiClient, other: ApiClient, system: System
) -> None:
    await _promise_worker(system)
    await other.submit("somebody else's")
    await api.submit("of the other lane", priority="batch")
    found = await _submit_and_poll(api, 4)
    receipts, statuses = [receipt for receipt, _ in found], [status for _, status in found]
    assert [status["queue_position"] for status in statuses] == [0, 1, 2, 3]
    estimates = [status["eta_seconds"]["p50"] for status in statuses]
    assert estimates == sorted(estimates)
    assert estimates[3] > estimates[0]
    hints = [status["poll_interval_hint"] for status in statuses]
    assert hints == sorted(hints)
    body(await api.post(receipts[0]["cancel_url"]))
    body(await api.post(receipts[2]["cancel_url"]))
    statuses = [await api.poll(receipts[n]) for n in (1, 3)]
    assert [status["queue_position"] for status in statuses] == [0, 1]


async def test_what_runs_is_not_ahead_of_what_waits(
    system: System, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=1)
    await system.front()
    await system.worker()
    api = await system.customer()
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=gate))
    runs = await api.submit("runs")
    await waiting.until(lambda: provider.requests)
    waits = [await api.submit(f"m{n}") for n in range(2)]
    statuses = [await api.poll(receipt) for receipt in (runs, *waits)]
    assert [status["queue_position"] for status in statuses] == [None, 0, 1]
    gate.set()
    for receipt in waits:
        assert (await api.wait_for_end(receipt))["state"] == "completed"


async def test_a_turn_behind_another_of_its_session_has_a_place(api: ApiClient) -> None:
    first = await api.submit("a")
    second = await api.submit("b", session_id=first["session_id"])
    assert (await api.poll(second))["queue_position"] == 1


async def test_hints_are_whole_seconds_from_1_to_30(api: ApiClient, system: System) -> None:
    await _promise_worker(system)
    found = await _submit_and_poll(api, 25, model="alpha")
    hints = [status["poll_interval_hint"] for _, status in found]
    assert all(isinstance(hint, int) for hint in hints)
    # A two-second model: soon for the first, and never more than 30 s.
    assert hints[0] in range(1, 4)
    assert hints[-1] == 30


@pytest.mark.parametrize(("kept", "longest"), [(8, 4), (1, 1)])
async def test_no_hint_leads_past_the_end_of_the_record(
    system: System, *, kept: int, longest: int
) -> None:
    system.change("retention", generation_seconds=kept)
    await system.front()
    api = await system.customer()
    await _promise_worker(system)
    receipt, status = (await _submit_and_poll(api, 25, model="alpha"))[-1]
    assert receipt["poll_interval_hint"] == longest
    assert status["poll_interval_hint"] == longest


async def test_a_receipt_knows_of_the_queue_before_it(api: ApiClient, system: System) -> None:
    await _promise_worker(system)
    found = await _submit_and_poll(api, 5, model="alpha")
    hints = [receipt["poll_interval_hint"] for receipt, _ in found]
    assert hints == [status["poll_interval_hint"] for _, status in found]
    assert hints[4] > hints[0]


async def test_a_receipt_knows_of_the_turns_before_it(api: ApiClient, system: System) -> None:
    await _promise_worker(system, slots=100)
    first = await api.submit("a", model="alpha")
    found = await _submit_and_poll(api, 5, model="alpha", session_id=first["session_id"])
    hints = [receipt["poll_interval_hint"] for receipt, _ in found]
    looked = [status["poll_interval_hint"] for _, status in found]
    assert all(abs(one - other) <= 1 for one, other in zip(hints, looked, strict=True))
    # Each takes its two seconds, one after the other.
    assert hints == sorted(hints)
    assert hints[4] >= hints[0] + 4


async def test_without_a_live_worker_nothing_is_estimated(api: ApiClient) -> None:
    receipt = await api.submit("a", model="alpha")
    status = await api.poll(receipt)
    assert status["eta_seconds"] is None
    assert (receipt["poll_interval_hint"], status["poll_interval_hint"]) == (2, 2)


async def test_a_model_that_no_live_worker_serves_is_not_estimated(
    api: ApiClient, system: System
) -> None:
    await _promise_worker(system)
    await api.submit("a", model="alpha")
    system.clock.advance(5)
    worker_report = WorkerReport(id="promised", concurrency=1, running=0, models=("beta",), wire=1)
    await fleet.report(system.redis, system.settings.redis, worker_report)
    [(receipt, status)] = await _submit_and_poll(api, 1, model="alpha")
    assert status["eta_seconds"] is None
    assert receipt["poll_interval_hint"] == 2


async def _prolong_wait(system: System, receipt: Json, seconds: float) -> None:
    """Make a message wait longer, by its record."""
    root = system.accounts.root_of(await system.account())
    record = keys.GENERATION(root, "one", receipt["message_id"])
    accepted = int(await system.redis.call("HGET", record, "accepted"))
    await system.redis.call("HSET", record, "accepted", accepted - int(seconds * 1000))


async def test_slots_that_others_hold_for_longer_than_expected_are_not_estimated(
    api: ApiClient, system: System
) -> None:
    await _promise_worker(system, slots=4, running=4)
    [(receipt, status)] = await _submit_and_poll(api, 1, model="alpha")
    assert status["eta_seconds"] is not None
    hints = [status["poll_interval_hint"]]
    for seconds in (10, 10, 20):
        await _prolong_wait(system, receipt, seconds)
        status = await api.poll(receipt)
        assert status["eta_seconds"] is None
        hints.append(status["poll_interval_hint"])
    assert hints == sorted(hints)
    assert hints[0] <= 3
    assert hints[-1] >= 20


async def _eta(api: ApiClient, provider: ScriptedProvider) -> Json | None:
    """Return the ETA of an answer that has not started."""
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    receipt = await api.submit("a", model="alpha")
    status = await api.poll(receipt)
    body(await api.post(receipt["cancel_url"]))
    await api.wait_for_end(receipt)
    return cast("Json | None", status["eta_seconds"])


@pytest.mark.usefixtures("worker")
async def test_measured_times_take_the_catalogues_place(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    """A model estimated at two seconds that takes none is soon known as fast."""
    before = await _eta(api, provider)
    assert before is not None
    assert before["p50"] > 1
    # The cancelled one left a duration too, unless it was cancelled before its call.
    provider.script.clear()
    for _ in range(3):
        await api.submit_and_wait("a", model="alpha")
    system.clock.advance(5)
    after = await _eta(api, provider)
    # By the time of the poll it may have run longer than any before.
    assert after is None or after["p50"] <= 1


@pytest.mark.usefixtures("worker")
async def test_a_long_answer_is_asked_about_less_often(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    """Beyond all known durations, the hint grows with the time waited."""
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    receipt = await api.submit("a", model="alpha")
    await waiting.until(lambda: provider.requests)
    first = (await api.poll(receipt))["poll_interval_hint"]
    root = system.accounts.root_of(await system.account())
    record = keys.GENERATION(root, "one", receipt["message_id"])
    await system.redis.call("HINCRBY", record, "started", -120_000)
    last = (await api.poll(receipt))["poll_interval_hint"]
    assert first <= 3
    assert 10 <= last <= 30


@pytest.mark.usefixtures("worker")
async def test_hints_follow_the_clock_of_redis_not_the_servers(
    system: System, provider: ScriptedProvider
) -> None:
    """A server whose clock is minutes off gives the same hints as one whose clock is right."""
    clock = WrongClock()
    await system.front(clock)
    api = await system.customer()
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=gate))
    receipt = await api.submit("a", model="alpha")
    await waiting.until(lambda: provider.requests)
    for seconds in (0, 1200, -1200):
        clock.off_ms = seconds * 1000
        status = await api.poll(receipt)
        assert status["state"] == "processing"
        assert status["poll_interval_hint"] <= 3
        assert status["eta_seconds"]["p90"] < 60
    gate.set()
    assert (await api.wait_for_end(receipt))["state"] == "completed"


async def test_auto_starts_from_the_first_models_estimate(system: System) -> None:
    model_durations = ModelDurations(
        system.redis, CatalogueHolder(Catalogue.of(system.settings)), system.clock
    )
    root = keys.partition_root(system.settings.redis, 0)
    auto, named = [await model_durations.durations(root, name) for name in (AUTO, "alpha")]
    assert auto.durations == named.durations
    assert named.typical_seconds == 2.0
