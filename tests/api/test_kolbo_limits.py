"""Limits: submissions by tier, reads, unfinished generations, and a full queue."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import pytest

from shared.tiers import Tier, TierName
from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.chat_completions import ScriptedAnswer
from tests.support.redis_server import RawClient, Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
CREDITS: Final = "/api/v1/account/credits"


async def _post(api: ApiClient, url: str = CHAT) -> httpx.Response:
    return await api.post(url, json={"message": "hello"})


async def _until_limited(call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Call until the limit refuses; tokens that flow back let a few more in."""

    async def is_limited() -> httpx.Response | None:
        answer = await call()
        return answer if answer.status_code != 200 else None

    answer: httpx.Response = await waiting.until(is_limited)
    refused(answer, 429, "RATE_LIMITED")
    return answer


@pytest.mark.parametrize(
    ("tier", "limit"), [("free", 10), ("pro", 120), ("enterprise", 6000)], ids=str
)
async def test_a_tier_has_its_limit(system: System, tier: TierName, limit: int) -> None:
    await system.front()
    api = await system.customer(tier=tier)
    answers = [await _post(api) for _ in range(min(limit, 20))]
    for sent, answer in enumerate(answers, 1):
        assert body(answer)
        assert answer.headers["ratelimit-limit"] == str(limit)
        remaining = int(answer.headers["ratelimit-remaining"])
        # Tokens that flowed back meanwhile count too.
        assert limit - sent <= remaining < limit
        assert 0 < int(answer.headers["ratelimit-reset"]) <= 60
    if tier == "free":
        answer = await _post(api)
        refused(answer, 429, "RATE_LIMITED")
        assert 1 <= int(answer.headers["retry-after"]) <= 6
        assert answer.headers["ratelimit-limit"] == "10"
        assert answer.headers["ratelimit-remaining"] == "0"
        assert 0 < int(answer.headers["ratelimit-reset"]) <= 60


async def test_the_limit_holds_over_all_fronts_and_keys_of_an_account_and_no_other(
    system: System,
) -> None:
    urls = [await system.front() + CHAT, await system.front() + CHAT]
    api = await system.customer(tier="free")
    twin = await system.customer("one")
    other = await system.customer("two", tier="free")
    callers = [(api, urls[0]), (api, urls[1]), (twin, urls[0]), (twin, urls[1])]
    answers = await asyncio.gather(
        *(_post(*callers[n % 4]) for n in range(20)), *(_post(other) for _ in range(10))
    )
    assert sum(answer.status_code == 200 for answer in answers[:20]) == 10
    assert sum(answer.status_code == 429 for answer in answers[:20]) == 10
    assert all(answer.status_code == 200 for answer in answers[20:])


async def test_who_waits_as_long_as_told_is_let_in(system: System) -> None:
    system.change("limits", free=Tier(submissions_per_minute=60))
    await system.front()
    api = await system.customer(tier="free")
    for _ in range(60):
        body(await _post(api))
    assert (await _until_limited(lambda: _post(api))).headers["retry-after"] == "1"

    async def is_let_in() -> bool:
        return (await _post(api)).status_code == 200

    await waiting.until(is_let_in, 1.1)


async def test_what_was_refused_for_its_form_is_not_counted(system: System) -> None:
    await system.front()
    api = await system.customer(tier="free")
    for _ in range(15):
        refused(await api.post(CHAT, json={}), 400, "MISSING_FIELDS")
        answer = await api.post(CHAT, json={"message": "x", "session_id": "none"})
        refused(answer, 404, "SESSION_NOT_FOUND")
    assert [(await _post(api)).status_code for _ in range(10)] == [200] * 10


async def test_reads_are_limited_by_the_minute(system: System) -> None:
    system.change_tier("enterprise", reads_per_minute=5)
    system.change("api", reads_per_unfinished=10)
    await system.front()
    api, twin = await system.customer(), await system.customer()
    other = await system.customer("two")
    for caller in (api, twin, api, twin, api):
        body(await caller.get(CREDITS))
    answer = await twin.get(CREDITS)
    refused(answer, 429, "RATE_LIMITED")
    wait = int(answer.headers["retry-after"])
    assert 1 <= wait <= 12
    body(await other.get(CREDITS))
    body(await _post(api))
    system.clock.advance(wait)
    body(await api.get(CREDITS))


async def test_unfinished_generations_may_be_polled_more_often(system: System) -> None:
    system.change_tier("enterprise", reads_per_minute=5)
    system.change("api", reads_per_unfinished=10)
    await system.front()
    api = await system.customer()
    body(await api.get(CREDITS))
    receipts = [await api.submit("hello") for _ in range(3)]
    system.clock.advance(60)
    # 5 and 3 times 10 for a minute.
    answers = [await api.get(receipts[n % 3]["poll_url"]) for n in range(35)]
    assert {answer.status_code for answer in answers} == {200}
    await _until_limited(lambda: api.get(CREDITS))


async def test_an_account_has_only_so_much_unfinished(system: System) -> None:
    system.change("limits", enterprise=Tier(submissions_per_minute=6_000, unfinished_max=2))
    await system.front()
    api, other = await system.customer(), await system.customer("two")
    receipts = [await api.submit("hello"), await api.submit("hello", priority="batch")]
    answer = await _post(api)
    refused(answer, 429, "RATE_LIMITED")
    _check_limit_headers(answer, 2)
    body(await _post(other))
    body(await api.post(receipts[0]["cancel_url"]))
    body(await _post(api))
    refused(await _post(api), 429, "RATE_LIMITED")


def _check_limit_headers(answer: httpx.Response, limit: int) -> None:
    """Check what every refusal by a limit carries."""
    again = int(answer.headers["retry-after"])
    assert again >= 1
    said = {name: answer.headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")}
    assert said == {"limit": str(limit), "remaining": "0", "reset": str(again)}


async def test_a_session_has_only_so_many_that_wait(system: System) -> None:
    system.change("limits", waiting_per_session=1)
    await system.front()
    api = await system.customer()
    session = (await api.submit("hello"))["session_id"]
    waits = await api.submit("hello", session_id=session)
    answer = await api.post("/api/v1/chat", json={"message": "hello", "session_id": session})
    payload = refused(answer, 429, "RATE_LIMITED")
    assert payload["error"] == "The session has 1 waiting messages, as many as it may."
    _check_limit_headers(answer, 1)
    body(await _post(api))
    body(await api.post(waits["cancel_url"]))
    assert await api.submit("hello", session_id=session)


async def test_the_queue_is_full_for_all_partitions_together(
    own_system: System,
) -> None:
    own_system.change("limits", unfinished_total=2)
    await own_system.front()
    callers = {
        (await own_system.account(name)).partition: await own_system.customer(name)
        for name in map(str, range(24))
    }
    assert len(callers) > 1
    one, other = [*callers.values()][:2]
    for _ in range(2):
        body(await _post(one))
    # The other partitions' load is cached for two seconds.
    own_system.clock.advance(5)
    refused(await _post(other), 503, "QUEUE_FULL")


async def test_a_full_queue_is_our_own_fault(system: System) -> None:
    system.change("limits", unfinished_total=2)
    await system.front()
    api = await system.customer()
    body(await _post(api))
    body(await _post(api))
    before = await api.credits()
    answer = await _post(api)
    refused(answer, 503, "QUEUE_FULL")
    assert int(answer.headers["retry-after"]) >= 1
    assert await api.credits() == before
    await system.worker()

    async def is_let_in() -> bool:
        return (await _post(api)).status_code == 200

    await waiting.until(is_let_in)


@pytest.mark.usefixtures("worker")
async def test_the_account_pays_in_advance_and_gets_the_rest_back(system: System) -> None:
    await system.front()
    api = await system.customer(funds=0.06)
    status = await api.submit_and_wait("hello there you")
    assert status["credits_used"] == 0.0013
    left = 0.06 - 0.0013
    assert await api.credits() == {
        "total": pytest.approx(left),
        "available": pytest.approx(left),
        "held": 0.0,
    }


async def test_who_cannot_pay_is_refused_and_reads_what_it_takes(system: System) -> None:
    await system.front()
    api = await system.customer(funds=0.06)
    receipt = await api.submit("hello")
    credits_ = await api.credits()
    assert 0.05 < credits_["held"] < 0.06
    assert credits_["total"] == pytest.approx(0.06)
    answer = await _post(api)
    refusal = refused(answer, 402, "INSUFFICIENT_CREDITS")
    needed, there = (float(word) for word in re.findall(r"\d[\d.]*\d", refusal["error"]))
    assert (needed, there) == (credits_["held"], credits_["available"])
    assert await api.credits() == credits_
    cancelled = body(await api.post(receipt["cancel_url"]))
    assert cancelled["credits_refunded"] == credits_["held"]
    body(await _post(api))


def _used_bytes(raw_client: RawClient) -> int:
    return int(raw_client("INFO", "memory")["used_memory"])


def _fill_memory(server: Server) -> None:
    """Fill the server's memory so far that connections take little beside it."""
    with server.raw_client() as raw_client:
        raw_client("SETRANGE", "ballast", 32 * 1024 * 1024, "x")


async def test_a_server_that_fills_up_turns_batches_away_first(
    own_system: System, own_server: Server
) -> None:
    await own_system.front()
    pro = await own_system.customer(tier="pro")
    free = await own_system.customer("two", tier="free")
    batch = {"message": "x", "priority": "batch"}
    body(await pro.post(CHAT, json=batch))
    _fill_memory(own_server)

    async def fill(share: float) -> None:
        with own_server.raw_client() as raw_client:
            raw_client("CONFIG", "SET", "maxmemory", int(_used_bytes(raw_client) / share))
        own_system.clock.advance(10)
        # The reload behind the first request measures it; the next request uses that.
        await pro.get(CREDITS)

    await fill(0.75)
    refusal = refused(await pro.post(CHAT, json=batch), 503, "QUEUE_FULL")
    assert "Redis" not in refusal["error"]
    body(await _post(free))
    await fill(0.85)
    answer = await _post(free)
    refused(answer, 503, "QUEUE_FULL")
    assert int(answer.headers["retry-after"]) >= 1
    body(await _post(pro))
    await fill(0.95)
    before = await pro.credits()
    refused(await _post(pro), 503, "QUEUE_FULL")
    assert await pro.credits() == before
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", "0")
    own_system.clock.advance(10)
    body(await _post(pro))


async def test_who_sends_again_what_was_taken_in_is_answered_though_nothing_more_is(
    own_system: System, own_server: Server
) -> None:
    await own_system.front()
    api = await own_system.customer()
    asked, key = {"message": "once"}, {"idempotency-key": "k"}
    receipt = body(await api.post(CHAT, json=asked, headers=key))
    _fill_memory(own_server)
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", int(_used_bytes(raw_client) / 0.95))
    own_system.clock.advance(10)
    refused(await _post(api), 503, "QUEUE_FULL")
    again = await api.post(CHAT, json=asked, headers=key)
    assert body(again)["message_id"] == receipt["message_id"]


async def test_what_could_not_be_answered_in_time_is_not_taken_in(
    system: System, provider: ScriptedProvider
) -> None:
    gate = asyncio.Event()
    provider.answer = lambda _: ScriptedAnswer(gate=gate)
    system.change("worker", concurrency=1)
    worker = await system.worker()
    await system.front()
    api = await system.customer()
    # By the catalogue, an answer takes two seconds.
    first = await api.submit("hello", model="alpha", deadline_seconds=60)
    await waiting.until(lambda: len(worker.slots))
    second = await api.submit("hello", model="alpha", deadline_seconds=60)
    hurried = {"message": "hello", "model": "alpha", "deadline_seconds": 1}
    answer = await api.post(CHAT, json=hurried)
    assert "1 s" in refused(answer, 503, "QUEUE_FULL")["error"]
    assert int(answer.headers["retry-after"]) >= 1
    gate.set()
    for receipt in (first, second):
        assert (await api.wait_for_end(receipt))["state"] == "completed"
