"""Cancels, deadlines and budgets; and what each costs."""

import asyncio

import pytest

from tests.support import waiting
from tests.support.api_client import ApiClient, Json, body, refused
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

WHOLE = {"total": 1000.0, "available": 1000.0, "held": 0.0}


async def _shows(api: ApiClient, receipt: Json, text: str) -> None:
    async def does() -> bool:
        return bool((await api.poll(receipt))["result"]["content"] == text)

    await waiting.until(does, what=text)


async def test_a_passed_deadline_ends_what_waits_although_no_worker_lives(api: ApiClient) -> None:
    receipt = await api.submit("hello", deadline_seconds=1)

    async def has_ended() -> Json | None:
        status = await api.poll(receipt)
        return status if status["state"] != "processing" else None

    status: Json = await waiting.until(has_ended)
    assert (status["state"], status["failure"]["category"]) == ("failed", "expired")
    assert await api.credits() == WHOLE


async def test_cancelling_what_waits_takes_effect_at_once(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    held = (await api.credits())["held"]
    done = body(await api.post(receipt["cancel_url"]))
    assert done == {
        "success": True,
        "state": "cancelled",
        "credits_refunded": held,
        "effect": "immediate",
    }
    status = await api.poll(receipt)
    assert (status["state"], status["attempt"]) == ("cancelled", 0)
    assert await api.credits() == WHOLE


@pytest.mark.usefixtures("worker")
async def test_cancelling_what_runs_is_pending_and_stops_the_upstream_call(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two", gate=asyncio.Event()))
    receipt = await api.submit("hello")
    await waiting.until(lambda: provider.requests)
    done = body(await api.post(receipt["cancel_url"]))
    assert done == {
        "success": True,
        "state": "processing",
        "credits_refunded": None,
        "effect": "pending",
    }
    status = await api.wait_for_end(receipt)
    assert status["state"] == "cancelled"
    # No token had arrived: nothing is paid.
    assert (status["result"]["content"], status["credits_used"]) == ("", 0)
    assert await api.credits() == WHOLE
    await waiting.until(lambda: provider.requests[0].gone_at, what="the upstream call's end")


@pytest.mark.usefixtures("worker")
async def test_a_cancelled_answer_is_paid_as_far_as_it_came(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script.append(ScriptedAnswer(text="one two three", gate=asyncio.Event(), gate_after=2))
    receipt = await api.submit("hello")
    await _shows(api, receipt, "one two")
    await api.post(receipt["cancel_url"])
    status = await api.wait_for_end(receipt)
    used = status["credits_used"]
    assert 0 < used < 0.01
    assert await api.credits() == {
        "total": pytest.approx(1000 - used),
        "available": pytest.approx(1000 - used),
        "held": 0.0,
    }


@pytest.mark.usefixtures("worker")
async def test_what_has_ended_cannot_be_cancelled(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    provider.script += [
        ScriptedAnswer(),
        ScriptedAnswer(status=422),
        ScriptedAnswer(gate=asyncio.Event()),
    ]
    ends = []
    for message in ("completes", "fails", "is cancelled"):
        receipt = await api.submit(message)
        ends.append(receipt)
        if message == "is cancelled":
            await waiting.until(lambda: len(provider.requests) == 3)
            body(await api.post(receipt["cancel_url"]))
        await api.wait_for_end(receipt)
    before = await api.credits()
    for receipt, state in zip(ends, ("completed", "failed", "cancelled"), strict=True):
        for _ in range(2):
            refusal = refused(await api.post(receipt["cancel_url"]), 409, "ALREADY_FINISHED")
            assert refusal["state"] == state
    assert await api.credits() == before


async def test_twenty_cancels_at_once_refund_once(api: ApiClient) -> None:
    receipt = await api.submit("hello")
    answers = await asyncio.gather(*(api.post(receipt["cancel_url"]) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    assert await api.credits() == WHOLE


@pytest.mark.usefixtures("worker")
async def test_cancelling_a_turn_that_waits_lets_the_others_go_on(
    api: ApiClient, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(gate=gate))
    first = await api.submit("a")
    second = await api.submit("b", session_id=first["session_id"])
    third = await api.submit("c", session_id=first["session_id"])
    assert body(await api.post(second["cancel_url"]))["effect"] == "immediate"
    gate.set()
    states = [(await api.wait_for_end(each))["state"] for each in (first, second, third)]
    assert states == ["completed", "cancelled", "completed"]
    assert [request.last for request in provider.requests] == ["a", "c"]


async def test_a_passed_deadline_ends_what_waits_and_what_runs_and_takes_what_was_shown(
    system: System, provider: ScriptedProvider
) -> None:
    system.expected.add("reaped")
    system.change("worker", concurrency=1)
    await system.front()
    await system.worker()
    api = await system.customer()
    provider.script.append(ScriptedAnswer(text="one two", gate=asyncio.Event(), gate_after=1))
    runs = await api.submit("runs", deadline_seconds=2)
    await _shows(api, runs, "one")
    waits = await api.submit("waits", deadline_seconds=1)
    used: list[float] = []
    for receipt, attempt in ((waits, 0), (runs, 1)):
        status = await api.wait_for_end(receipt)
        assert (status["state"], status["stage"]) == ("failed", "failed")
        assert status["failure"]["category"] == "expired"
        assert status["failure"]["code"] == "DEADLINE_EXCEEDED"
        used.append(status["credits_used"])
        assert status["attempt"] == attempt
    assert len(provider.requests) == 1
    # The queued message had no text yet.
    assert used[0] == 0 < used[1]
    left = await api.credits()
    assert left["held"] == 0
    assert left["total"] == pytest.approx(WHOLE["total"] - used[1])
    await waiting.until(lambda: provider.requests[0].gone_at, what="the upstream call's end")
    assert (await api.submit_and_wait("the worker lives"))["state"] == "completed"


async def test_a_budget_bounds_the_hold_the_answer_and_the_price(
    api: ApiClient, system: System, provider: ScriptedProvider
) -> None:
    receipt = await api.submit("hello", max_credits=0.01)
    assert (await api.credits())["held"] == 0.01
    await system.worker()
    status = await api.wait_for_end(receipt)
    assert status["credits_used"] <= 0.01
    # 10,000 microcredits less the estimated question; a token costs 200.
    assert 30 < provider.requests[0].body["max_tokens"] < 50


@pytest.mark.usefixtures("worker")
async def test_a_cost_above_the_hold_is_ours(api: ApiClient, provider: ScriptedProvider) -> None:
    provider.script.append(ScriptedAnswer(text="word " * 200))
    status = await api.submit_and_wait("hello", max_credits=0.01)
    assert status["state"] == "completed"
    assert status["credits_used"] == 0.01
    assert (await api.credits())["total"] == pytest.approx(999.99)


async def test_a_large_budget_holds_no_more_than_the_longest_answer(api: ApiClient) -> None:
    await api.submit("hello")
    usual = (await api.credits())["held"]
    await api.submit("hello", max_credits=1_000_000)
    assert (await api.credits())["held"] == pytest.approx(2 * usual)
