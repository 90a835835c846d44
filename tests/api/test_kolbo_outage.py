"""Redis is away: 503 in time, nothing accepted is lost, and recovery needs no operator."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import httpx

from shared.redis import keys
from tests.support import waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
LOST: Final = "Redis had lost its functions"
# Log events of servers and workers while Redis is away.
EXPECTED: Final = {
    "unavailable",
    "waiting for Redis",
    "a beat was missed",
    "reaped",
    "Redis fell silent",
    "the listener is away",
    "the listener is back",
}


async def _send_all_kinds(api: ApiClient, receipt: dict[str, str]) -> list[httpx.Response]:
    """Send one request of every kind at once."""
    calls: tuple[Awaitable[httpx.Response], ...] = (
        api.post(CHAT, json={"message": "hello"}),
        api.get(receipt["poll_url"]),
        api.get(receipt["poll_url"], params={"wait": 1}),
        api.post(receipt["cancel_url"]),
        api.get("/api/v1/chat/conversations"),
        api.get("/api/v1/account/credits"),
        api.get("/readyz"),
    )
    return list(await asyncio.gather(*calls))


async def _refused_within(api: ApiClient, receipt: dict[str, str], seconds: float) -> None:
    began = time.monotonic()
    for answer in await _send_all_kinds(api, receipt):
        refused(answer, 503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        # Neither the address of Redis nor its error is shown.
        assert "Redis" not in answer.text
    assert time.monotonic() - began < seconds
    # Health does not depend on Redis.
    assert (await api.get("/healthz")).status_code == 200


def _answers(api: ApiClient) -> Callable[[], Awaitable[bool]]:
    async def does() -> bool:
        return (await api.get("/api/v1/account/credits")).status_code == 200

    return does


async def _started(system: System) -> tuple[ApiClient, dict[str, str]]:
    system.expected |= EXPECTED
    await system.front()
    api = await system.customer()
    return api, await api.submit("before", model="alpha")


async def test_a_dead_redis_is_503_at_once_and_back_by_itself(
    own_system: System, own_server: Server
) -> None:
    # No timeout of Redis can end within the bound below: the refused connection does.
    own_system.change("redis", timeout_seconds=60.0, connect_seconds=60.0)
    api, receipt = await _started(own_system)
    own_server.kill()
    for _ in range(2):
        await _refused_within(api, receipt, 15.0)
    own_server.start()
    await waiting.until(_answers(api))
    await own_system.worker()
    assert (await api.wait_for_end(receipt))["state"] == "completed"
    assert (await api.submit_and_wait("after"))["state"] == "completed"


async def test_a_paused_redis_is_503_in_bounded_time_and_back_by_itself(
    own_system: System, own_server: Server
) -> None:
    own_system.change("redis", timeout_seconds=0.4)
    api, receipt = await _started(own_system)
    own_server.pause()
    try:
        # The timeout, its timer's grain, and one attempt to reconnect.
        await _refused_within(api, receipt, 15.0)
    finally:
        own_server.resume()
    await waiting.until(_answers(api))
    await own_system.worker()
    assert (await api.submit_and_wait("after"))["state"] == "completed"


async def test_what_was_refused_for_want_of_an_answer_is_one_generation_after_all(
    own_system: System, own_server: Server, provider: ScriptedProvider
) -> None:
    """A message sent into a pause may have arrived: its key finds it, so it is not sent twice."""
    own_system.change("redis", timeout_seconds=0.4)
    api, _ = await _started(own_system)
    asked, key = {"message": "once"}, {"idempotency-key": "k"}
    own_server.pause()
    try:
        refused(await api.post(CHAT, json=asked, headers=key), 503, "UNAVAILABLE")
    finally:
        own_server.resume()
    await waiting.until(_answers(api))
    answers = [await api.post(CHAT, json=asked, headers=key) for _ in range(2)]
    assert body(answers[0])["message_id"] == body(answers[1])["message_id"]
    await own_system.worker()
    await api.wait_for_end(body(answers[0]))
    await waiting.until(lambda: len(provider.requests) == 2)
    assert sorted(request.last for request in provider.requests) == ["before", "once"]


async def test_an_answer_under_way_survives_a_restart_of_redis(
    own_system: System, own_server: Server, provider: ScriptedProvider
) -> None:
    own_system.expected |= EXPECTED
    await own_system.front()
    await own_system.worker()
    api = await own_system.customer()
    gate = asyncio.Event()
    provider.script.append(ScriptedAnswer(text="one two", gate=gate, gate_after=1))
    receipt = await api.submit("hello")

    async def has_begun() -> bool:
        return bool((await api.poll(receipt))["result"]["content"] == "one")

    await waiting.until(has_begun)
    wait = asyncio.create_task(api.get(receipt["poll_url"], params={"wait": 45}))
    await waiting.until(_answers(api))
    own_server.restart()
    gate.set()
    # Each wait was refused at once, or continued.
    assert (await wait).status_code in {200, 503}
    status = await api.wait_for_end(receipt)
    assert (status["state"], status["result"]["content"]) == ("completed", "one two")
    assert len(provider.requests) == 1


async def test_a_front_comes_back_to_a_redis_that_lost_its_functions(
    own_system: System, own_server: Server
) -> None:
    own_system.expected.add(LOST)
    api, receipt = await _started(own_system)
    with own_server.raw_client() as raw_client:
        raw_client("FUNCTION", "FLUSH")
    assert (await api.poll(receipt))["state"] == "processing"
    with own_server.raw_client() as raw_client:
        raw_client("FUNCTION", "FLUSH")
    assert await api.submit("after")
    # Someone did that, and an operator should know.
    assert [line["event"] for line in own_system.lines].count(LOST) == 2


async def test_a_redis_that_cannot_write_is_503_for_writers_only(
    own_system: System, own_server: Server
) -> None:
    api, receipt = await _started(own_system)
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", "1")
    answer = await api.post(CHAT, json={"message": "hello"})
    refused(answer, 503, "UNAVAILABLE")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await api.poll(receipt))["state"] == "processing"
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory", "0")
    assert await api.submit("hello")


async def test_readyz_counts_the_generations_that_were_set_aside(system: System) -> None:
    await system.front()
    nobody = await system.caller({})
    assert "damaged" not in (await nobody.get("/readyz")).json()
    last = system.settings.redis.partitions - 1
    roots = {keys.partition_root(system.settings.redis, number) for number in {0, last}}
    for root in roots:
        await system.redis.call("ZADD", keys.DAMAGED(root), 1, "ann:x")
    assert (await nobody.get("/readyz")).json()["damaged"] == len(roots)
    for root in roots:
        await system.redis.call("DEL", keys.DAMAGED(root))
