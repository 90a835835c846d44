"""What is overdue is ended by the next poll, where no live worker could end it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from shared.redis import functions, keys
from shared.redis.functions import Claimed
from tests.api.kombify_client import CHAT, refused
from tests.support import api_client
from tests.support.api_client import ApiClient, Json, body
from tests.support.redis_functions import RedisFunctions
from tests.support.stream_reader import following, posting
from tests.support.system import System

WHOLE = {"total": 1000.0, "available": 1000.0, "held": 0.0}
# Far less than a wait or a ping interval, and enough on a busy machine.
_SOON_SECONDS = 10.0


async def _claim_and_die(system: System, receipt: Json, *, lease_ms: int = 0) -> Claimed:
    """Have a worker claim a message, write a word and die; by default its lease has expired."""
    account = await system.account()
    queue = RedisFunctions(system.redis, system.settings.redis, account.partition)
    ask = functions.ClaimAsk(
        worker="dead",
        wire=9,
        count=1,
        batch=1,
        lease_ms=lease_ms,
        keep=functions.KeepTimes.of(system.settings.retention),
        claim=1,
    )
    [claimed] = (await functions.claim(system.redis, queue.root, ask)).claimed
    assert claimed.id == receipt["message_id"]
    assert await queue.append(claimed, 1, "Half") == "appended"
    return claimed


async def _expire_lease(system: System, claimed: Claimed) -> None:
    name = f"{claimed.account}:{claimed.id}"
    await system.redis.call("ZADD", keys.LEASES(claimed.root), "XX", 1, name)


async def test_cancel_ends_what_a_dead_worker_ran(system: System, api: ApiClient) -> None:
    receipt = await api.submit("hello")
    held = (await api.credits())["held"]
    claimed = await _claim_and_die(system, receipt)
    done = body(await api.post(receipt["cancel_url"]))
    assert (done["state"], done["effect"]) == ("cancelled", "immediate")
    assert done["credits_refunded"] == held
    status = await api.poll(receipt)
    assert (status["state"], status["result"]["content"]) == ("cancelled", "Half")
    queue = RedisFunctions(system.redis, system.settings.redis, (await system.account()).partition)
    assert await queue.settle(claimed, seq=2, text="Half more") is None
    assert await api.credits() == WHOLE


async def _polls(api: ApiClient, receipt: Json) -> Json:
    return await api.poll(receipt)


async def _waits(api: ApiClient, receipt: Json) -> Json:
    return await api.poll(receipt, wait=40)


async def _cancels_again(api: ApiClient, receipt: Json) -> Json:
    assert body(await api.post(receipt["cancel_url"]))["effect"] == "immediate"
    return await api.poll(receipt)


async def _begins_to_follow(api: ApiClient, receipt: Json) -> Json:
    async with following(api, receipt["events_url"]) as stream:
        assert (await stream.rest())[-1].name == "cancelled"
    return await api.poll(receipt)


@pytest.mark.parametrize("poll", [_polls, _waits, _cancels_again, _begins_to_follow])
async def test_a_cancel_without_live_workers_ends_at_the_next_poll(
    system: System, api: ApiClient, poll: Callable[[ApiClient, Json], Awaitable[Json]]
) -> None:
    """The worker has just died: at the time of the cancel it might still have been alive."""
    receipt = await api.submit("hello")
    claimed = await _claim_and_die(system, receipt, lease_ms=60_000)
    assert body(await api.post(receipt["cancel_url"]))["effect"] == "pending"
    assert (await api.poll(receipt))["state"] == "processing"
    await _expire_lease(system, claimed)
    assert (await poll(api, receipt))["state"] == "cancelled"
    assert await api.credits() == WHOLE


async def test_a_cancel_without_live_workers_ends_waits_and_streams(
    system: System,
) -> None:
    system.change("api", ping_seconds=0.1)
    await system.front()
    api = await system.customer()
    for session in range(2):
        receipt = await api.submit(f"hello {session}")
        claimed = await _claim_and_die(system, receipt, lease_ms=60_000)
        assert body(await api.post(receipt["cancel_url"]))["effect"] == "pending"
        if session:
            waiter = asyncio.create_task(api.poll(receipt, wait=40))
            await _expire_lease(system, claimed)
            assert (await waiter)["state"] == "cancelled"
            continue
        async with following(api, receipt["events_url"]) as stream:
            await stream.until("delta")
            await _expire_lease(system, claimed)
            assert (await stream.rest())[-1].name == "cancelled"


async def test_deadline_ends_every_way_to_wait_although_no_worker_lives(
    system: System, api: ApiClient
) -> None:
    began = time.monotonic()
    asked = {"message": "hello", "deadline_seconds": 1}
    receipt = await api.submit("hello", deadline_seconds=1)
    await _claim_and_die(system, receipt, lease_ms=60_000)
    colleague = await system.customer()

    async def follows() -> list[str]:
        async with following(api, receipt["events_url"]) as stream:
            return [one.name for one in await stream.rest()]

    async def streams() -> list[str]:
        async with posting(api, CHAT, asked | {"stream": True}) as stream:
            return [one.name for one in await stream.rest()]

    status, followed, streamed, answer, changed = await asyncio.gather(
        api.poll(receipt, wait=40),
        follows(),
        streams(),
        colleague.post(CHAT, json=asked),
        colleague.get(receipt["poll_url"], params={"wait": 40}, headers={"if-none-match": "x"}),
    )
    assert time.monotonic() - began < _SOON_SECONDS
    assert (status["state"], status["failure"]["category"]) == ("failed", "expired")
    assert status["result"]["content"] == "Half"
    assert (followed[-1], streamed[-1]) == ("failed", "failed")
    details = refused(answer, 504, "GENERATION_ERROR")["details"]
    assert details["failure"]["category"] == "expired"
    assert api_client.body(changed)["generation_id"] == receipt["message_id"]
    assert await api.credits() == WHOLE


@pytest.mark.usefixtures("worker")
async def test_a_healthy_poll_calls_redis_once(
    system: System, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline in the future and a live worker cost no further call."""
    assert system
    asked: list[str] = []
    status = functions.status

    async def counted(*words: object) -> object:
        asked.append("status")
        return await status(*words)  # type: ignore[arg-type]  # what it was asked

    async def unasked(*_: object) -> None:
        raise AssertionError("nothing is overdue")

    receipt = await api.submit("hello")
    await api.wait_for_end(receipt)
    monkeypatch.setattr(functions, "status", counted)
    for name in ("expire", "cancel"):
        monkeypatch.setattr(functions, name, unasked)
    waits = await api.submit("hello", priority="batch")
    await api.poll(waits)
    await api.poll(receipt)
    assert asked == ["status"] * 2
