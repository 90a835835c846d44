"""`append` and `settle`: what an attempt writes once, under its fencing token."""

import json

import pytest

from shared.errors import StoreError
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.functions import AlreadyEnded, Settled
from shared.wire.message import decode_assistant
from tests.support.redis_functions import RedisFunctions


async def test_text_and_events_grow_together(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    assert await queue.append(claimed, 1, "Hello", " there") == "appended"
    assert await queue.append(claimed, 3, ", you") == "appended"
    reply = await queue.status(ticket)
    assert reply.body == b"Hello there, you"
    assert (reply.record["stage"], reply.record["seq"]) == ("generating", "3")
    events = await queue.events(ticket)
    assert [at for at, _ in events] == ["1-1", "1-2", "1-3"]
    assert "".join(json.loads(event)["text"] for _, event in events) == "Hello there, you"


async def test_repeated_append_changes_nothing(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    for _ in range(3):
        assert await queue.append(claimed, 1, "a", "b") == "appended"
    assert (await queue.status(ticket)).body == b"ab"
    assert len(await queue.events(ticket)) == 2


async def test_events_are_published_as_they_are_stored(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    channel = keys.events_channel(queue.root, "ann", ticket.id)
    assert channel == keys.EVENTS(queue.root, "ann", ticket.id)
    assert await queue.redis.call("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0]
    await queue.complete(claimed)
    assert (await queue.events(ticket))[-1] == ("1-2", '{"type":"completed"}')


async def test_older_attempt_cannot_write(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    old = await queue.claim_one(lease_ms=0)
    await queue.append(old, 1, "old")
    await queue.reap()
    assert await queue.append(old, 2, "between") == "refused"
    assert await queue.settle(old, seq=2) is None
    new = await queue.claim_one()
    assert (await queue.status(ticket)).body is None
    assert await queue.append(old, 2, "late") == "refused"
    assert await queue.settle(old, seq=2) is None
    assert await queue.release(old) == "refused"
    await queue.complete(new, "new")
    reply = await queue.status(ticket)
    assert reply.body is not None
    assert decode_assistant(reply.body).content == "new"
    assert [at for at, _ in await queue.events(ticket)] == ["1-1", "1-2", "2-1", "2-2", "2-3"]


async def test_attempt_with_an_expired_lease_writes_until_it_is_reaped(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    slow = await queue.claim_one(lease_ms=0)
    assert await queue.append(slow, 1, "late but alone") == "appended"
    assert await queue.settle(slow, seq=2) is not None
    assert (await queue.reap()).done == []


async def test_settle_captures_the_cost_and_releases_the_rest(queue: RedisFunctions) -> None:
    await queue.grant(100)
    await queue.submit(hold=60)
    assert (await queue.complete(await queue.claim_one(), cost=25)).captured == 25
    credit_totals = await queue.credit_totals()
    assert (
        credit_totals.balance,
        credit_totals.held,
        credit_totals.settled,
        credit_totals.overrun,
    ) == (75, 0, 25, 0)


async def test_cost_beyond_the_hold_is_never_taken(queue: RedisFunctions) -> None:
    await queue.grant(100)
    await queue.submit(hold=60)
    assert (await queue.complete(await queue.claim_one(), cost=90)).captured == 60
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.settled, credit_totals.overrun) == (40, 60, 30)


async def test_repeated_settle_changes_nothing(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=60)
    following = await queue.submit("ann", ticket.session)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hi")
    answers = [await queue.settle(claimed, seq=2, cost=10) for _ in range(3)]
    assert answers == [Settled(10), Settled(10), Settled(10)]
    assert await queue.settle(claimed, seq=3, cost=10) is None
    assert (await queue.credit_totals()).settled == 10
    assert (await queue.claim_one()).id == following.id
    assert await queue.claim() == []


async def test_an_end_is_an_end(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await queue.complete(claimed)
    assert await queue.append(claimed, 5, "more") == "refused"
    assert await queue.release(claimed) == "refused"
    assert await queue.settle(claimed, seq=9, stage="failed") is None
    assert await queue.cancel(ticket) == AlreadyEnded("completed")
    [stop] = await queue.beat(claimed)
    assert stop.why == "lost"
    assert await queue.stage(ticket) == "completed"


async def test_step_that_the_table_lacks_is_refused(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    with pytest.raises(StoreError, match="ILLEGAL routing to completed"):
        await queue.settle(claimed)
    assert await queue.stage(ticket) == "routing"
    assert await queue.beat(claimed) == []


async def test_ended_generation_keeps_its_answer_and_expires(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.complete(await queue.claim_one(), "The answer")
    for family, longest_ms in ((keys.GENERATION, 60_000), (keys.EVENTS, 30_000)):
        left = await queue.redis.call("PTTL", family(queue.root, "ann", ticket.id))
        assert longest_ms - 10_000 < left <= longest_ms
    reply = await queue.status(ticket)
    assert reply.record["last"] == "1-2"
    assert {"hold", "worker", "deadline", "seq"}.isdisjoint(reply.record)
    await queue.redis.call("DEL", keys.GENERATION(queue.root, "ann", ticket.id))
    kept = await queue.redis.call("HGET", keys.TURNS(queue.root, "ann", ticket.session, 0), "1:a")
    assert decode_assistant(kept).content == "The answer"


async def test_durations_keep_the_last_answers_of_a_model(queue: RedisFunctions) -> None:
    stages: tuple[Stage, ...] = ("completed", "completed", "failed")
    for stage in stages:
        await queue.submit(model="m1")
        claimed = await queue.claim_one()
        await queue.append(claimed, 1, "x")
        await queue.settle(claimed, seq=2, stage=stage)
    durations = await queue.redis.call("LRANGE", keys.DURATIONS(queue.root, "m1"), 0, -1)
    assert len(durations) == 2
    assert all(0 <= int(duration) < 10_000 for duration in durations)
