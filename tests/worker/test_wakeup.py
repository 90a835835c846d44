"""A worker whose idle connection is dead, or answers late, or is healthy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import msgspec
import pytest

from shared.errors import UnavailableError
from shared.redis.client import Redis
from shared.redis.functions import Claimed
from tests.support.proxy import Proxy
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server
from tests.support.system import System
from tests.support.waiting import until
from worker.consumer.claims import Claims
from worker.consumer.slots import Slots

pytestmark = pytest.mark.each_once

# A worker that waits for `redis.timeout_seconds` and the idle time takes twice this.
_PICKUP_SECONDS = 3.0


class _Idle(NamedTuple):
    """A single worker that blocks for a wakeup, behind a proxy to the server."""

    claims: Claims
    started: list[Claimed]
    proxy: Proxy
    queue: RedisFunctions


@asynccontextmanager
async def _idle(system: System, server: Server, partitions: int) -> AsyncIterator[_Idle]:
    async with Proxy(server.socket) as proxy:
        redis = msgspec.structs.replace(system.settings.redis, partitions=partitions)
        behind = msgspec.structs.replace(redis, url=proxy.url)
        settings = msgspec.structs.replace(system.settings, redis=behind)
        line, started = Redis(behind), list[Claimed]()
        claims = Claims(settings, "lone", line, Slots(settings.worker), started.append)

        async def take_on() -> None:
            while True:
                with suppress(UnavailableError):
                    await claims.take_work()

        taking = asyncio.create_task(take_on())
        try:
            await until(lambda: server.blocked_clients() == 1, what="an idle worker")
            yield _Idle(claims, started, proxy, RedisFunctions(system.redis, redis, partitions - 1))
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            await claims.close()
            await line.close()


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("is_rung_there", [True, False])
async def test_connection_that_died_while_idle_costs_a_fraction_of_the_timeout(
    own_system: System, own_server: Server, partitions: int, is_rung_there: bool
) -> None:
    """The server sends the wakeup, and a claim, to the dead connection while it blocks there."""
    own_system.expected.add("an idle connection to Redis was dead and is replaced")
    async with _idle(own_system, own_server, partitions) as idle:
        idle.proxy.drop_packets()
        if not is_rung_there:
            await until(lambda: own_server.blocked_clients() == 0, what="the end of the wait")
        ticket = await idle.queue.submit()
        await until(lambda: idle.started, _PICKUP_SECONDS, what="a claim")
        record = (await idle.queue.status(ticket)).record
    # What the dead connection took was given back, and it is this attempt that counts.
    assert [(one.id, str(one.attempt)) for one in idle.started] == [(ticket.id, record["attempt"])]


async def test_late_answer_counts_and_its_connection_stays(
    own_system: System, own_server: Server
) -> None:
    async with _idle(own_system, own_server, 1) as idle:
        old, before = idle.claims._wakeup.id, idle.proxy.opened
        idle.proxy.freeze()
        ticket = await idle.queue.submit()
        await until(lambda: idle.proxy.opened > before, what="a fresh connection")
        idle.proxy.thaw()
        await until(lambda: idle.started, what="a claim")
        assert idle.claims._wakeup.id == old
    assert [(one.id, one.attempt) for one in idle.started] == [(ticket.id, 1)]


async def test_idle_connection_that_is_well_is_asked_nothing_else(
    own_system: System, own_server: Server
) -> None:
    own_system.change("worker", lease_seconds=0.2, beat_seconds=0.05)

    def calls(command: str) -> int:
        with own_server.raw_client() as raw_client:
            counts = raw_client("INFO", "commandstats")
        return int(counts.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    async with _idle(own_system, own_server, 1) as idle:
        greeted, opened = calls("hello"), idle.proxy.opened
        first = calls("blpop")
        await until(lambda: calls("blpop") >= first + 5, what="waits at the bell")
        assert (calls("hello"), idle.proxy.opened) == (greeted, opened)
        assert calls("client|unblock") == 0
