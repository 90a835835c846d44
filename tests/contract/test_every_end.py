"""Every way in which a generation ends writes one event, and what comes after writes none more.

The ways are those in which a function calls `finish_generation` or sets a damaged record aside.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from shared.errors import CANCELLED, Failure
from shared.redis import functions, keys
from shared.redis.functions import ExpireAsk
from shared.stores import account_log
from tests.support.redis_functions import KEEP, RedisFunctions, Ticket

Way = Callable[[RedisFunctions], Awaitable[Ticket]]
_FAILED: Final = Failure(message="No.", category="provider_error", code="BROKEN")


async def _completed(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await queue.complete(await queue.claim_one())
    return ticket


async def _failed(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    assert await queue.fail(await queue.claim_one(), _FAILED)
    return ticket


async def _cancelled_by_its_worker(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await queue.cancel(ticket)
    await queue.settle(claimed, stage="cancelled", failure=CANCELLED)
    return ticket


async def _cancelled_while_waiting(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await queue.cancel(ticket)
    return ticket


async def _late_at_a_claim(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit(deadline_ms=0)
    assert await queue.claim() == []
    return ticket


async def _late_at_a_reap(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit(deadline_ms=0)
    await queue.reap()
    return ticket


async def _late_at_a_poll(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit(deadline_ms=0)
    await _expire(queue, ticket)
    return ticket


async def _crashed(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await queue.claim_one(lease_ms=0)
    await queue.reap(crashes_max=0)
    return ticket


async def _cancelled_and_its_worker_died(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await queue.cancel(ticket)
    await queue.beat(claimed, lease_ms=0)
    await queue.reap()
    return ticket


async def _cancelled_before_a_release(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await queue.cancel(ticket)
    assert await queue.release(claimed) == "cancelled"
    return ticket


async def _cancelled_before_a_suspension(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await queue.cancel(ticket)
    await queue.suspend(claimed, 1)
    return ticket


async def _cancelled_after_a_claim_without_a_reply(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await queue.claim(number=7)
    await queue.cancel(ticket)
    assert await queue.claim(number=8, unacknowledged=(7,)) == []
    return ticket


async def _session_deleted(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await queue.claim_one()
    await queue.delete_session(ticket.account, ticket.session)
    return ticket


async def _damaged_at_a_claim(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await _damage(queue, ticket)
    assert await queue.claim() == []
    return ticket


async def _damaged_at_its_end(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await _damage(queue, ticket)
    assert await queue.settle(claimed) is None
    return ticket


async def _damaged_at_a_reap(queue: RedisFunctions) -> Ticket:
    ticket = await queue.submit()
    await queue.claim_one(lease_ms=0)
    await _damage(queue, ticket)
    await queue.reap(crashes_max=0)
    return ticket


_WAYS: Final[dict[Way, str]] = {
    _completed: "completed",
    _failed: "failed",
    _cancelled_by_its_worker: "cancelled",
    _cancelled_while_waiting: "cancelled",
    _late_at_a_claim: "failed",
    _late_at_a_reap: "failed",
    _late_at_a_poll: "failed",
    _crashed: "failed",
    _cancelled_and_its_worker_died: "cancelled",
    _cancelled_before_a_release: "cancelled",
    _cancelled_before_a_suspension: "cancelled",
    _cancelled_after_a_claim_without_a_reply: "cancelled",
    _session_deleted: "cancelled",
    _damaged_at_a_claim: "failed",
    _damaged_at_its_end: "failed",
    _damaged_at_a_reap: "failed",
}


@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.__name__)
async def test_an_end_is_one_event_whatever_follows(queue: RedisFunctions, way: Way) -> None:
    ticket = await way(queue)
    expected = [(f"generation.{_WAYS[way]}", ticket.id)]
    assert await _events(queue) == expected
    for _ in range(2):
        await queue.cancel(ticket)
        await queue.reap(crashes_max=0)
        await queue.claim(number=9, unacknowledged=(0, 7))
        await _expire(queue, ticket)
    await queue.delete_session(ticket.account, ticket.session)
    assert await _events(queue) == expected


async def _events(queue: RedisFunctions) -> list[tuple[str, str]]:
    found = await account_log.page(queue.redis, queue.root, "ann", after=None, limit=100)
    return [(each.type, each.subject) for each in found.events]


async def _expire(queue: RedisFunctions, ticket: Ticket) -> None:
    ask = ExpireAsk(account=ticket.account, id=ticket.id, keep=KEEP)
    await functions.expire(queue.redis, queue.root, ask)


async def _damage(queue: RedisFunctions, ticket: Ticket) -> None:
    name = keys.GENERATION(queue.root, ticket.account, ticket.id)
    await queue.redis.call("HDEL", name, "deadline")
