"""A whole worker in the test's own loop: hooks, cancels, keys, drains, leases, start and end."""

import asyncio
from typing import Any

import pytest

from shared.errors import ConfigurationError, UnavailableError
from shared.redis import keys
from shared.settings import RedisSettings
from shared.stores import fleet
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import GRANT, Front, text_of
from tests.worker.running_workers import Hook, running_worker, started
from worker.consumer.heartbeat import Heartbeat

pytestmark = pytest.mark.each_once

# Hooks


@pytest.mark.parametrize("hook", ["on_job_start", "on_job_end", "after_job_end"])
async def test_hook_that_raises_costs_a_line_and_no_generation(
    system: System, front: Front, hook: str
) -> None:
    async def broken(_: dict[str, Any]) -> None:
        raise ZeroDivisionError

    system.expected.add("a hook raised")
    async with running_worker(system, hooks={hook: broken}) as worker:
        for _ in range(3):
            assert (await front.end(await front.submit())).stage == "completed"
        await until(lambda: not len(worker.slots))
    assert [line["event"] for line in system.lines].count("a hook raised") == 3


async def test_hooks_are_called_around_each_attempt_with_its_context(
    system: System, front: Front
) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    def noting(name: str) -> Hook:
        async def hook(ctx: dict[str, Any]) -> None:
            # Chores may come due meanwhile.
            if not str(ctx.get("job_id")).startswith("cron:"):
                seen.append((name, ctx))

        return hook

    names = ("on_startup", "on_job_start", "on_job_end", "after_job_end", "on_shutdown")
    async with running_worker(system, hooks={name: noting(name) for name in names}):
        ticket = await front.submit()
        await front.end(ticket)
        await until(lambda: len(seen) == 4)
    assert [name for name, _ in seen] == list(names)
    assert {(ctx["job_id"], ctx["job_try"]) for _, ctx in seen[1:4]} == {(ticket.id, 1)}


async def test_cancel_during_a_hook_is_not_lost(system: System, front: Front) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(_: dict[str, Any]) -> None:
        begun.set()
        await gate.wait()

    async with running_worker(system, hooks={"on_job_start": slow}) as worker:
        ticket = await front.submit()
        await begun.wait()
        await front.cancel(ticket)
        await until(
            lambda: all(stop_signal.why == "cancel" for stop_signal in worker.slots.stop_signals())
        )
        gate.set()
        assert (await front.end(ticket, 1)).stage == "cancelled"


# Cancels


async def test_cancel_reaches_the_upstream_at_once(
    system: System, front: Front, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither a beat nor a token brings the cancel: only the worker's own channel does.
    monkeypatch.setattr(Heartbeat, "_beat_all", lambda _: None)
    system.change("worker", lease_seconds=120.0)
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    async with running_worker(system):
        ticket = await front.submit()
        await until(lambda: provider.requests)
        await front.cancel(ticket)
        ended = await front.end(ticket)
        await asyncio.wait_for(provider.requests[0].ended.wait(), 10)
    assert (ended.stage, ended.captured) == ("cancelled", 0)
    assert provider.requests[0].gone_at is not None


async def test_cancel_that_the_channel_lost_comes_with_a_heartbeat(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(gate=asyncio.Event()))
    async with running_worker(system) as worker:
        worker._listener._on_cancel = lambda *_: None
        ticket = await front.submit()
        await until(lambda: provider.requests)
        await front.cancel(ticket)
        assert (await front.end(ticket, 2)).stage == "cancelled"


async def test_cancels_that_race_with_claims_all_end(system: System, front: Front) -> None:
    async with running_worker(system) as worker:
        for _ in range(60):
            ticket = await front.submit()
            await front.cancel(ticket)
            assert (await front.end(ticket, 2)).stage in {"cancelled", "completed"}
        await until(lambda: not len(worker.slots))
    credit_totals = await front.credit_totals()
    assert credit_totals.held == 0


# Keys


async def test_model_that_only_another_worker_serves_waits_for_it(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    async with running_worker(system):
        ticket = await front.submit(model="gamma", deadline_ms=30_000)
        await front.seen(ticket, lambda found: found.stage == "retrying")
        assert provider.requests == []
        async with running_worker(system, {"NO_SUCH_KEY": "sk-other"}):
            ended = await front.end(ticket)
    assert ended.stage == "completed"
    (request,) = provider.requests
    assert request.body["model"] == "upstream-gamma"
    assert request.headers["authorization"] == "Bearer sk-other"


async def test_worker_reports_what_it_serves_and_leaves(system: System, front: Front) -> None:
    async with running_worker(system, {"NO_SUCH_KEY": "k"}) as worker:
        name = keys.WORKER_REPORTS(keys.system_root(system.settings.redis))
        await until(lambda: front.redis.call("HEXISTS", name, worker.id))
        found = await fleet.load(front.redis, system.settings.redis)
        assert (found.workers, found.slots) == (1, 32)
        assert found.models == {"alpha", "beta", "gamma"}
    assert not await front.redis.call("HEXISTS", name, worker.id)


# Drains


async def test_drain_lets_end_what_ends_within_the_grace(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", grace_seconds=10.0)
    gate = asyncio.Event()
    provider.answer = lambda _: ScriptedAnswer(text="Two bears", gate=gate)
    async with started(system) as (worker, running):
        tickets = [await front.submit() for _ in range(3)]
        await until(lambda: len(provider.requests) == 3)
        worker.begin_drain()
        # The claim under way when the signal came may still bring one.
        await until(lambda: any(line["event"] == "draining" for line in system.lines))
        late = await front.submit()
        gate.set()
        await asyncio.wait_for(running, 5)
    for ticket in tickets:
        ended = await front.poll(ticket)
        assert (ended.stage, ended.attempt) == ("completed", 1)
    assert (await front.poll(late)).stage == "queued"


async def test_drain_hands_the_rest_back_as_if_never_taken(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.answer = lambda _: ScriptedAnswer(text="old " * 9, gate=gate, gate_after=3)
    async with started(system) as (worker, running):
        tickets = [await front.submit(f"message {number}") for number in range(3)]
        for ticket in tickets:
            await front.seen(ticket, lambda found: found.text)
        behind = await front.submit("behind")
        worker.begin_drain()
        await asyncio.wait_for(running, 5)
    for ticket in tickets:
        record = await front.record(ticket)
        assert (record["stage"], record["drains"]) == ("queued", "1")
        assert "crashes" not in record
    assert all(request.gone_at is not None for request in provider.requests[:3])
    provider.requests.clear()
    provider.answer = lambda request: ScriptedAnswer(text=f"new {request.last}")
    system.change("worker", concurrency=1)
    async with running_worker(system):
        for ticket in [*tickets, behind]:
            ended = await front.end(ticket)
            assert ended.stage == "completed"
            assert text_of(await front.stream_events(ticket)) == ended.text
    said = [request.last for request in provider.requests]
    assert said.index("behind") >= said.index("message 0")
    assert (await front.credit_totals()).held == 0


async def test_drain_while_nothing_runs_waits_for_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.consumer.claims._IDLE_SECONDS", 60.0)
    system.change("worker", lease_seconds=120.0, grace_seconds=60.0)
    async with started(system) as (worker, running):
        await until(lambda: worker.claims._is_waiting, what="an idle worker")
        worker.begin_drain()
        await asyncio.wait_for(running, 10)


async def test_drain_of_a_full_worker_ends(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    system.change("worker", concurrency=1)
    provider.answer = lambda _: ScriptedAnswer(gate=asyncio.Event())
    async with started(system) as (worker, running):
        first = await front.submit()
        second = await front.submit()
        await until(lambda: provider.requests)
        worker.begin_drain()
        await asyncio.wait_for(running, 5)
    assert (await front.poll(first)).stage == "queued"
    assert (await front.record(second))["attempt"] == "0"


# Start and end


async def test_worker_without_redis_says_so_and_ends(system: System) -> None:
    system.settings = system.settings.__class__(
        redis=RedisSettings(url="unix:///nonexistent/socket"),
        providers=system.settings.providers,
        models=system.settings.models,
    )
    async with started(system) as (_, running):
        with pytest.raises(UnavailableError, match="Redis cannot be reached"):
            await running


async def test_key_that_cannot_be_sent_is_reported_at_the_start(system: System) -> None:
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY"):
        async with running_worker(system, {"NO_SUCH_KEY": "sk-\x00"}):
            pass


async def test_worker_leaves_nothing_behind(
    system: System, front: Front, provider: ScriptedProvider
) -> None:
    before = len(asyncio.all_tasks())
    clients = await _clients(front)
    async with running_worker(system):
        for _ in range(5):
            await front.end(await front.submit())
    await until(lambda: len(asyncio.all_tasks()) <= before)
    await until(lambda: provider.connections == 0)

    async def are_gone() -> bool:
        return await _clients(front) <= clients

    await until(are_gone)
    credit_totals = await front.credit_totals()
    assert credit_totals.held == 0
    assert credit_totals.balance + credit_totals.settled == GRANT


async def test_worker_whose_shutdown_hook_raises_lets_go_of_all(
    system: System, front: Front
) -> None:
    async def broken(_: dict[str, Any]) -> None:
        raise ZeroDivisionError

    system.expected.add("a hook raised")
    clients = await _clients(front)
    async with running_worker(system, hooks={"on_shutdown": broken}):
        await front.end(await front.submit())

    async def are_gone() -> bool:
        return await _clients(front) <= clients

    await until(are_gone)


async def _clients(front: Front) -> int:
    listed = await front.redis.call("CLIENT", "LIST")
    return len((listed.decode() if isinstance(listed, bytes) else listed).splitlines())
