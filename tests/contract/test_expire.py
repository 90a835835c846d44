"""`expire`, and `cancel` where no worker is alive: a generation past its deadline is ended."""

import asyncio

from shared import ids
from shared.errors import EXPIRED
from shared.redis import functions, keys
from shared.redis.functions import AlreadyEnded, Cancelled
from shared.wire.message import decode_assistant
from tests.support.redis_functions import CHANNELS, KEEP, LONG_MS, RedisFunctions, Ticket


async def _expire(queue: RedisFunctions, ticket: Ticket) -> bool:
    ask = functions.ExpireAsk(account=ticket.account, id=ticket.id, keep=KEEP)
    return await functions.expire(queue.redis, queue.root, ask)


async def _cancel(queue: RedisFunctions, ticket: Ticket) -> Cancelled | AlreadyEnded | None:
    ask = functions.CancelAsk(
        account=ticket.account,
        id=ticket.id,
        keep=KEEP,
        channels=CHANNELS,
        call=ids.new_id(),
        is_abandoned=True,
    )
    return await functions.cancel(queue.redis, queue.root, ask)


async def test_generation_is_expired_at_its_deadline_and_no_earlier(queue: RedisFunctions) -> None:
    await queue.grant(100)
    early = await queue.submit(hold=10)
    assert not await _expire(queue, early)
    assert await queue.stage(early) == "queued"
    late = await queue.submit(hold=10, deadline_ms=0)
    assert await _expire(queue, late)
    reply = await queue.status(late)
    assert reply.body is not None
    assert decode_assistant(reply.body).failure == EXPIRED
    assert await _expire(queue, late)
    assert await _expire(queue, Ticket("ann", late.session, "unknown"))
    assert await _expire(queue, late._replace(account="bob"))
    assert ((await queue.credit_totals()).balance, (await queue.credit_totals()).held) == (90, 10)


async def test_attempt_that_is_expired_writes_nothing_more(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=10)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Half")
    where = keys.GENERATION(queue.root, "ann", ticket.id)
    await queue.redis.call("HSET", where, "deadline", 1)
    assert all(await asyncio.gather(*(_expire(queue, ticket) for _ in range(10))))
    assert await queue.append(claimed, 2, " more") == "refused"
    assert await queue.settle(claimed, seq=2, text="Half more") is None
    assert [at for at, _ in await queue.events(ticket)] == ["1-1", "2-1"]
    assert (await queue.credit_totals()).balance == 100
    assert (await queue.reap()).done == []


async def test_deadline_that_passed_ends_a_session_for_its_next_turn(queue: RedisFunctions) -> None:
    ticket = await queue.submit(deadline_ms=0)
    following = await queue.submit("ann", ticket.session)
    assert await _expire(queue, ticket)
    assert (await queue.claim_one()).id == following.id


async def test_damaged_generation_is_set_aside(queue: RedisFunctions) -> None:
    ticket = await queue.submit(deadline_ms=0)
    await queue.redis.call("HSET", keys.GENERATION(queue.root, "ann", ticket.id), "hold", "x")
    assert await _expire(queue, ticket)
    assert await queue.stage(ticket) == "failed"
    assert [each.name for each in (await queue.reap()).damaged] == [f"ann:{ticket.id}"]


async def test_cancel_ends_what_a_dead_worker_ran_once_its_lease_has_expired(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40)
    claimed = await queue.claim_one(lease_ms=LONG_MS)
    await queue.append(claimed, 1, "Half")
    assert await _cancel(queue, ticket) == Cancelled(None)
    await queue.redis.call("ZADD", keys.LEASES(queue.root), 1, f"ann:{ticket.id}")
    # Where workers are alive, one of them reaps it.
    assert await queue.cancel(ticket) == Cancelled(None)
    answers = await asyncio.gather(*(_cancel(queue, ticket) for _ in range(10)))
    assert answers.count(Cancelled(40)) == 1
    assert answers.count(AlreadyEnded("cancelled")) == 9
    assert (await queue.credit_totals()).balance == 100
    assert await queue.settle(claimed, seq=2, stage="cancelled", text="Half") is None
    assert [at for at, _ in await queue.events(ticket)] == ["1-1", "2-1"]
