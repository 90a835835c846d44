"""`durability = "replica"`: what is acknowledged is on a second server, or is not acknowledged."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import msgspec
import pytest

from shared.errors import ConfigurationError, StoreError
from shared.redis import server_check
from shared.redis.replicated import NotReplicatedError, ReplicatedConnection
from shared.settings import RedisSettings
from tests.support import processes, waiting
from tests.support.api_client import ApiClient, body, refused
from tests.support.redis_server import Server
from tests.support.system import System

CHAT: Final = "/api/v1/chat"
EXPECTED: Final = {"unavailable", "waiting for Redis"}


@pytest.fixture
def replica(own_server: Server) -> Iterator[Server]:
    """Return a replica of the test's own server."""
    port = processes.free_port()
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "bind", "127.0.0.1")
        raw_client("CONFIG", "SET", "port", port)
        # By default a server waits 5 s for further replicas before it sends its data to one.
        raw_client("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    with Server(own_server.kind) as follower:
        with follower.raw_client() as raw_client:
            raw_client("REPLICAOF", "127.0.0.1", port)
        _await_replicas(own_server, 1)
        yield follower


def _await_replicas(own_server: Server, count: int) -> None:
    def has_them() -> bool:
        with own_server.raw_client() as raw_client:
            payload = raw_client("INFO", "replication")
        return sum("online" in str(payload.get(f"slave{n}")) for n in range(2)) == count

    waiting.until_now(has_them, what="the replica")


async def _started(system: System, patience_seconds: float = 10.0) -> ApiClient:
    system.expected |= EXPECTED
    system.change("redis", durability="replica", replica_seconds=patience_seconds)
    await system.front()
    return await system.customer()


async def test_what_is_acknowledged_is_on_the_replica(own_system: System, replica: Server) -> None:
    api = await _started(own_system)
    receipt = await api.submit("hello")
    with replica.raw_client() as raw_client:
        names = raw_client.names(f"*generation:*:{receipt['message_id']}")
    assert len(names) == 1
    await own_system.worker()
    assert (await api.wait_for_end(receipt))["state"] == "completed"
    with replica.raw_client() as raw_client:
        assert raw_client.fields(names[0])["stage"] == "completed"


async def test_what_no_replica_confirms_is_refused_called_off_and_told_to_who_asks_again(
    own_system: System, replica: Server
) -> None:
    api = await _started(own_system, 0.3)
    asked, key = {"message": "hello"}, {"idempotency-key": "k"}
    before = await api.credits()
    replica.pause()
    try:
        answer = await api.post(CHAT, json=asked, headers=key)
        refused(answer, 503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        replica.resume()

    async def is_confirmed() -> bool:
        return (await api.post(CHAT, json=asked, headers=key)).status_code == 200

    await waiting.until(is_confirmed)
    again = await api.post(CHAT, json=asked, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert (await api.wait_for_end(body(again)))["state"] == "cancelled"
    assert await api.credits() == before


async def test_an_answer_waits_for_the_replica_and_is_settled_once(
    own_system: System, replica: Server
) -> None:
    api = await _started(own_system, 2.0)
    receipt = await api.submit("hello")
    replica.pause()
    worker = await own_system.worker()
    await waiting.until(
        lambda: any(line.get("work") == "a settlement" for line in own_system.lines)
    )
    replica.resume()
    await waiting.until(lambda: not len(worker.slots))
    status = await api.wait_for_end(receipt)
    assert status["state"] == "completed"
    assert (await api.credits())["held"] == 0


async def test_a_server_without_a_replica_is_unfit(own_system: System) -> None:
    own_system.change("redis", durability="replica")
    with pytest.raises(ConfigurationError, match="replica connected"):
        await server_check.check(own_system.redis, own_system.settings.redis)


def _patient(settings: RedisSettings, seconds: float) -> RedisSettings:
    return msgspec.structs.replace(settings, durability="replica", replica_seconds=seconds)


async def test_who_finds_it_done_by_another_connection_waits_for_the_replica_too(
    own_settings: RedisSettings, replica: Server
) -> None:
    settings = _patient(own_settings, 0.2)
    first, second = ReplicatedConnection(settings), ReplicatedConnection(settings)
    key = f"{own_settings.prefix}:x"
    replica.pause()
    try:
        for redis, command in ((first, ("SET", key, 1)), (second, ("GET", key))):
            with pytest.raises(NotReplicatedError):
                await redis.call(*command)
    finally:
        replica.resume()
    await waiting.until(lambda: _is_confirmed(second, "DEL", key))
    await first.close()
    await second.close()


async def _is_confirmed(redis: ReplicatedConnection, *command: str) -> bool:
    try:
        await redis.call(*command)
    except NotReplicatedError:
        return False
    return True


async def test_many_that_no_replica_confirms_do_not_wait_for_one_another(
    own_settings: RedisSettings, replica: Server
) -> None:
    redis, many, patience_seconds = ReplicatedConnection(_patient(own_settings, 0.5)), 40, 0.5
    replica.pause()
    try:
        began = time.monotonic()
        answers = await asyncio.gather(
            *(redis.call("PING") for _ in range(many)), return_exceptions=True
        )
        seconds = time.monotonic() - began
    finally:
        replica.resume()
    assert [type(answer) for answer in answers] == [NotReplicatedError] * many
    assert seconds < many * patience_seconds / 2
    await redis.close()


@pytest.mark.usefixtures("replica")
async def test_a_failed_call_raises_for_its_own_caller_only(own_settings: RedisSettings) -> None:
    redis = ReplicatedConnection(_patient(own_settings, 10.0))
    answers = await asyncio.gather(
        redis.call("ECHO", "a"), redis.call("ECHO"), redis.call("ECHO", "b"), return_exceptions=True
    )
    first, faulty, last = answers
    assert (first, last) == (b"a", b"b")
    assert isinstance(faulty, StoreError)
    await redis.close()
