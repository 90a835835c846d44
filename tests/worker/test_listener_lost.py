"""A worker that has lost its listener: what it runs, claims and reports, and when it recovers.

The listener is lost in three ways: a server that accepts no more connections, a user that may no
longer use the channel, connections that are cut again and again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import pytest

from shared.redis import keys
from shared.stores import fleet
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedAnswer, ScriptedProvider
from tests.support.system import System
from tests.support.waiting import until
from tests.worker.front import Front, Ticket
from tests.worker.running_workers import running_worker

_AWAY: Final = "the listener is away"
_BACK: Final = "the listener is back"
# As by default: a worker that a busy machine holds up for a tenth of a second is not dead.
_BEAT_SECONDS: Final = 0.5
_RUNNING: Final = 3


async def _cut(system: System) -> None:
    await system.redis.call("CLIENT", "KILL", "TYPE", "pubsub")


@asynccontextmanager
async def _full(system: System) -> AsyncIterator[None]:
    """Let the server accept no new connection, so that a cut listener stays lost."""
    [most] = (await system.redis.call("CONFIG", "GET", "maxclients")).values()
    await system.redis.call("CONFIG", "SET", "maxclients", 1)
    await _cut(system)
    try:
        yield
    finally:
        await system.redis.call("CONFIG", "SET", "maxclients", most)


@asynccontextmanager
async def _mute(system: System) -> AsyncIterator[None]:
    """Take the channels of workers away from the user that the worker is."""
    prefix = system.settings.redis.prefix
    acl = ("ACL", "SETUSER", "worker")
    await system.redis.call(*acl, "resetchannels", f"&{prefix}:{{p*")
    try:
        yield
    finally:
        await system.redis.call(*acl, "allchannels")


@asynccontextmanager
async def _no_longer_default(system: System, server: Server) -> AsyncIterator[System]:
    """Let what is started now be another user of the server than the test is."""
    await system.redis.call("ACL", "SETUSER", "worker", "on", ">secret", "+@all", "~*", "&*")
    before = system.settings
    url = f"unix://worker:secret@{server.socket}"
    redis = msgspec.structs.replace(before.redis, url=url)
    system.settings = msgspec.structs.replace(before, redis=redis)
    yield system
    system.settings = before


def _said(system: System, words: str) -> int:
    return sum(line["event"] == words for line in system.lines)


def _has_said(system: System, words: str, count: int) -> bool:
    return _said(system, words) == count


async def _is_nobody_blocked(system: System) -> bool:
    # On a connection that is open: the server may take no other.
    told = await system.redis.call("INFO", "clients")
    return b"blocked_clients:0\r" in (told if isinstance(told, bytes) else told.encode())


async def _start(front: Front, provider: ScriptedProvider, gate: asyncio.Event) -> list[Ticket]:
    """Run some messages that end when `gate` is set."""
    provider.script.extend(
        ScriptedAnswer(text="so far", gate=gate, gate_after=1) for _ in range(_RUNNING)
    )
    tickets = [await front.submit(account=f"a{number}") for number in range(_RUNNING)]
    await until(lambda: len(provider.requests) == _RUNNING, what="the calls")
    return tickets


async def _beat(system: System, ticket: Ticket) -> None:
    """Wait until the leases have been renewed: the heartbeat then has a connection."""
    seen = set()

    async def renewed() -> bool:
        name = f"{ticket.account}:{ticket.id}"
        seen.add(await system.redis.call("ZSCORE", keys.LEASES(ticket.root), name))
        return len(seen) > 1

    await until(renewed, what="a beat")


async def _looks(system: System, ticket: Ticket, count: int) -> None:
    """Wait until the fleet has reaped so often."""
    seen = set()

    async def looked() -> bool:
        seen.add(await system.redis.call("HGET", keys.CLOCKS(ticket.root), "reaped"))
        return len(seen) > count

    await until(looked, 20, what="looks for the dead")


async def _deaf(system: System, count: int) -> None:
    async def told() -> bool:
        return (await fleet.load(system.redis, system.settings.redis)).without_listener == count

    await until(told, what=f"{count} workers without a listener")


async def _is(told: Callable[[], Awaitable[object]], value: object) -> bool:
    return await told() == value


# With one partition the blocking call of an idle worker claims in the same round trip.
@pytest.mark.parametrize(("trouble", "partitions"), [(_full, 1), (_mute, 3)], ids=["full", "mute"])
async def test_worker_without_a_listener_keeps_what_it_runs_and_claims_nothing_until_it_is_back(
    own_system: System,
    own_server: Server,
    provider: ScriptedProvider,
    trouble: Callable[[System], AbstractAsyncContextManager[None]],
    partitions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, gate = own_system, asyncio.Event()
    # A worker that kept blocking would block longer than this test runs.
    monkeypatch.setattr("worker.consumer.claims._IDLE_SECONDS", 60.0)
    system.change("worker", lease_seconds=60.0, beat_seconds=_BEAT_SECONDS)
    system.change("redis", partitions=partitions)
    own_front = Front(system.redis, system.settings)
    system.expected |= {_AWAY, _BACK, "Redis sent an unexpected reply", "Redis is no longer fit"}
    # The chores' connections are dialled as they are needed, and a full server takes none.
    system.expected.add("waiting for Redis")
    async with _no_longer_default(system, own_server), running_worker(system):
        running = await _start(own_front, provider, gate)
        await _beat(system, running[0])
        async with trouble(system):
            await until(lambda: _said(system, _AWAY), what="a word in the log")
            await until(partial(_is_nobody_blocked, system), what="a bell that is left")
            late = [await own_front.submit(account=f"a{each}") for each in range(_RUNNING)]
            await _deaf(system, 1)
            await _looks(system, running[0], 5)
            assert {(await own_front.record(each))["stage"] for each in late} == {"queued"}
            gate.set()
            ended = [await own_front.end(each) for each in running]
            assert [(one.stage, one.attempt) for one in ended] == [("completed", 1)] * _RUNNING
            # A slot that is free now is not used either.
            await _looks(system, running[0], 5)
            assert {(await own_front.record(each))["stage"] for each in late} == {"queued"}
        await until(lambda: _said(system, _BACK), what="a word in the log")
        ended = [await own_front.end(each) for each in late]
        assert [(one.stage, one.attempt) for one in ended] == [("completed", 1)] * _RUNNING
        await _deaf(system, 0)
    assert len(provider.requests) == 2 * _RUNNING


async def test_worker_whose_listener_is_cut_again_and_again_loses_nothing(
    own_system: System, own_front: Front, provider: ScriptedProvider
) -> None:
    system, gate = own_system, asyncio.Event()
    system.change("worker", beat_seconds=_BEAT_SECONDS)
    system.expected |= {_AWAY, _BACK}
    async with running_worker(system):
        running = await _start(own_front, provider, gate)
        for cuts in range(1, 11):
            await _cut(system)
            await until(partial(_has_said, system, _BACK, cuts), what="the listener")
        gate.set()
        ended = [await own_front.end(each) for each in running]
    assert [(one.stage, one.attempt) for one in ended] == [("completed", 1)] * _RUNNING
    assert _said(system, _AWAY) == 10


async def test_operator_sees_how_many_workers_have_no_listener(
    own_system: System, own_server: Server
) -> None:
    system = own_system
    system.expected |= {_AWAY, _BACK, "Redis sent an unexpected reply", "Redis is no longer fit"}
    await system.front()
    nobody = await system.caller({})

    async def told() -> object:
        return (await nobody.get("/readyz")).json().get("workers_without_listener", 0)

    async with _no_longer_default(system, own_server), running_worker(system):
        await until(lambda: _is(told, 0), what="no worker without a listener")
        async with _mute(system):
            await until(lambda: _is(told, 1), what="a worker without a listener")
        await until(lambda: _is(told, 0), what="no worker without a listener")


async def test_worker_that_is_killed_is_noticed_long_before_its_leases_lapse(
    own_system: System, own_front: Front, provider: ScriptedProvider
) -> None:
    system = own_system
    # A slow machine must not look like a fleet that did not reap.
    system.change("worker", lease_seconds=60.0, beat_seconds=0.5, reap_seconds=5.0)
    system.expected.add("reaped")
    provider.script.extend(
        [ScriptedAnswer(text="half", gate=asyncio.Event()), ScriptedAnswer(text="whole")]
    )
    killed = await system.spawn_worker()
    ticket = await own_front.submit()
    await until(lambda: provider.requests, what="the call")
    await _beat(system, ticket)
    async with running_worker(system):
        killed.kill()
        ended = await own_front.end(ticket, 30)
    assert (ended.stage, ended.text, ended.attempt) == ("completed", "whole", 2)
