"""A worker dies before and after each Redis call of a delivery: no event is lost."""

import asyncio
from typing import Final

import pytest

from shared.clock import SystemClock
from shared.redis.client import Argument, Connection, Reply
from tests.support.redis_functions import RedisFunctions
from tests.support.system import System
from tests.support.webhook_receiver import Answer, Receiver, status
from tests.worker.webhook_scene import WebhookScene
from worker.fetching.url_fetcher import UrlFetcher
from worker.webhooks.deliverer import Deliverer

pytestmark = pytest.mark.each_once

# Taking an event and storing its end; each again for a second attempt.
_CALLS: Final = 4


class _DyingConnection:
    """A connection of a worker that dies before or after its n-th call, and does nothing more."""

    def __init__(self, redis: Connection, number: int, *, is_after: bool) -> None:
        self._redis = redis
        self._left = number
        self._is_after = is_after
        self.died = asyncio.Event()

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        self._left -= 1
        if self._left == 0 and self._is_after:
            await self._redis.call(*command, repeat=repeat)
        if self._left <= 0:
            self.died.set()
            await asyncio.Event().wait()
        return await self._redis.call(*command, repeat=repeat)

    def send(self, *command: Argument) -> None:
        self._redis.send(*command)


@pytest.mark.parametrize("first", [200, 500])
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, _CALLS + 1))
async def test_a_death_at_any_call_loses_no_event(
    system: System, number: int, *, is_after: bool, first: int
) -> None:
    queue = RedisFunctions(system.redis, system.settings.redis, 0)
    async with Receiver() as receiver:
        receiver.answer = _first_then_200(receiver, first)
        scene = WebhookScene(queue, system.settings, receiver)
        await scene.set_webhook(receiver.url)
        tickets = [await scene.end_one() for _ in range(2)]
        dying = _DyingConnection(system.redis, number, is_after=is_after)
        await _work_until_death(scene, dying)
        heir = scene.deliverer()
        for _ in range(3):
            await scene.pass_time()
            await scene.deliver(heir)
        accepted = {each.payload["data"]["id"] for each in receiver.received}
        assert accepted == {ticket.id for ticket in tickets}
        deliveries = await scene.deliveries()
        assert [each.state for each in deliveries] == ["delivered"] * 2
        assert set(receiver.ids) == {each.id for each in deliveries}
        made = sum(len(each.attempts) for each in deliveries)
        # An attempt whose worker died before its call is listed all the same.
        assert len(receiver.received) <= made <= len(receiver.received) + 2


def _first_then_200(receiver: Receiver, first: int) -> Answer:
    async def answer(received: object, writer: asyncio.StreamWriter) -> None:
        code = first if len(receiver.received) <= 2 else 200
        await status(code)(receiver.received[-1], writer)
        assert received

    return answer


async def _work_until_death(scene: WebhookScene, dying: _DyingConnection) -> None:
    """Run a deliverer of one partition on the dying connection, then drop it as a kill does."""
    clock = SystemClock()
    settings = scene.settings
    deliverer = Deliverer(settings, dying, clock, UrlFetcher(settings.egress, clock))

    async def work() -> None:
        while True:
            await deliverer.deliver()
            await deliverer.drain(10.0)
            await scene.pass_time()

    working = asyncio.create_task(work())
    await asyncio.wait_for(dying.died.wait(), 10.0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await deliverer.close()
