"""`expire`, and `cancel` where no worker lives: one generation that time has overtaken is ended."""

import asyncio

from shared import ids
from shared.errors import EXPIRED
from shared.redis import functions, keys
from shared.redis.functions import AlreadyEnded, Cancelled
from shared.wire.message import decode_assistant
from tests.support.desk import CHANNELS, KEEP, LONG_MS, Desk, Ticket


async def _expire(desk: Desk, ticket: Ticket) -> bool:
    ask = functions.ExpireAsk(account=ticket.account, id=ticket.id, keep=KEEP)
    return await functions.expire(desk.redis, desk.root, ask)


async def _cancel(desk: Desk, ticket: Ticket) -> Cancelled | AlreadyEnded | None:
    ask = functions.CancelAsk(
        account=ticket.account,
        id=ticket.id,
        keep=KEEP,
        channels=CHANNELS,
        call=ids.new_id(),
        is_abandoned=True,
    )
    return await functions.cancel(desk.redis, desk.root, ask)


async def test_generation_is_expired_at_its_deadline_and_no_earlier(desk: Desk) -> None:
    await desk.grant(100)
    early = await desk.submit(hold=10)
    assert not await _expire(desk, early)
    assert await desk.stage(early) == "queued"
    late = await desk.submit(hold=10, deadline_ms=0)
    assert await _expire(desk, late)
    look = await desk.status(late)
    assert look.body is not None
    assert decode_assistant(look.body).failure == EXPIRED
    assert await _expire(desk, late)
    assert await _expire(desk, Ticket("ann", late.session, "unknown"))
    assert await _expire(desk, late._replace(account="bob"))
    assert ((await desk.books()).balance, (await desk.books()).held) == (90, 10)


async def test_attempt_that_is_expired_writes_nothing_more(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=10)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Half")
    where = keys.GENERATION(desk.root, "ann", ticket.id)
    await desk.redis.call("HSET", where, "deadline", 1)
    assert all(await asyncio.gather(*(_expire(desk, ticket) for _ in range(10))))
    assert await desk.append(claimed, 2, " more") == "refused"
    assert await desk.settle(claimed, seq=2, text="Half more") is None
    assert [at for at, _ in await desk.events(ticket)] == ["1-1", "2-1"]
    assert (await desk.books()).balance == 100
    assert (await desk.reap()).done == []


async def test_deadline_that_passed_ends_a_session_for_its_next_turn(desk: Desk) -> None:
    ticket = await desk.submit(deadline_ms=0)
    following = await desk.submit("ann", ticket.session)
    assert await _expire(desk, ticket)
    assert (await desk.claim_one()).id == following.id


async def test_damaged_generation_is_set_aside(desk: Desk) -> None:
    ticket = await desk.submit(deadline_ms=0)
    await desk.redis.call("HSET", keys.GENERATION(desk.root, "ann", ticket.id), "hold", "x")
    assert await _expire(desk, ticket)
    assert await desk.stage(ticket) == "failed"
    assert [each.name for each in (await desk.reap()).damaged] == [f"ann:{ticket.id}"]


async def test_cancel_ends_what_a_dead_worker_ran_once_its_lease_has_expired(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=40)
    claimed = await desk.claim_one(lease_ms=LONG_MS)
    await desk.append(claimed, 1, "Half")
    assert await _cancel(desk, ticket) == Cancelled(None)
    await desk.redis.call("ZADD", keys.LEASES(desk.root), 1, f"ann:{ticket.id}")
    # Where workers live, one of them reaps it.
    assert await desk.cancel(ticket) == Cancelled(None)
    answers = await asyncio.gather(*(_cancel(desk, ticket) for _ in range(10)))
    assert answers.count(Cancelled(40)) == 1
    assert answers.count(AlreadyEnded("cancelled")) == 9
    assert (await desk.books()).balance == 100
    assert await desk.settle(claimed, seq=2, stage="cancelled", text="Half") is None
    assert [at for at, _ in await desk.events(ticket)] == ["1-1", "2-1"]
