"""`append` and `settle`: what an attempt may write, once, under its token."""

import json

import pytest

from shared.errors import StoreError
from shared.lifecycle import Stage
from shared.redis import keys
from shared.redis.functions import AlreadyEnded, Settled
from shared.wire.message import decode_assistant
from tests.support.desk import Desk


async def test_text_and_events_grow_together(desk: Desk) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    assert await desk.append(claimed, 1, "Hello", " there") == "appended"
    assert await desk.append(claimed, 3, ", you") == "appended"
    look = await desk.status(ticket)
    assert look.body == b"Hello there, you"
    assert (look.record["stage"], look.record["seq"]) == ("generating", "3")
    events = await desk.events(ticket)
    assert [at for at, _ in events] == ["1-1", "1-2", "1-3"]
    assert "".join(json.loads(event)["text"] for _, event in events) == "Hello there, you"


async def test_repeated_append_changes_nothing(desk: Desk) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    for _ in range(3):
        assert await desk.append(claimed, 1, "a", "b") == "appended"
    assert (await desk.status(ticket)).body == b"ab"
    assert len(await desk.events(ticket)) == 2


async def test_events_are_published_as_they_are_kept(desk: Desk) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    channel = keys.events_channel(desk.root, "ann", ticket.id)
    assert channel == keys.EVENTS(desk.root, "ann", ticket.id)
    assert await desk.redis.call("PUBSUB", "NUMSUB", channel) == [channel.encode(), 0]
    await desk.complete(claimed)
    assert (await desk.events(ticket))[-1] == ("1-2", '{"type":"completed"}')


async def test_older_attempt_can_write_nothing(desk: Desk) -> None:
    ticket = await desk.submit()
    old = await desk.claim_one(lease_ms=0)
    await desk.append(old, 1, "old")
    await desk.reap()
    assert await desk.append(old, 2, "between") == "refused"
    assert await desk.settle(old, seq=2) is None
    new = await desk.claim_one()
    assert (await desk.status(ticket)).body is None
    assert await desk.append(old, 2, "late") == "refused"
    assert await desk.settle(old, seq=2) is None
    assert await desk.release(old) == "refused"
    await desk.complete(new, "new")
    look = await desk.status(ticket)
    assert look.body is not None
    assert decode_assistant(look.body).content == "new"
    assert [at for at, _ in await desk.events(ticket)] == ["1-1", "1-2", "2-1", "2-2", "2-3"]


async def test_lapsed_lease_still_writes_until_it_is_reaped(desk: Desk) -> None:
    await desk.submit()
    slow = await desk.claim_one(lease_ms=0)
    assert await desk.append(slow, 1, "late but alone") == "appended"
    assert await desk.settle(slow, seq=2) is not None
    assert (await desk.reap()).done == []


async def test_settle_captures_the_cost_and_gives_the_rest_back(desk: Desk) -> None:
    await desk.grant(100)
    await desk.submit(hold=60)
    assert (await desk.complete(await desk.claim_one(), cost=25)).captured == 25
    books = await desk.books()
    assert (books.balance, books.held, books.settled, books.overrun) == (75, 0, 25, 0)


async def test_cost_beyond_the_hold_is_never_taken(desk: Desk) -> None:
    await desk.grant(100)
    await desk.submit(hold=60)
    assert (await desk.complete(await desk.claim_one(), cost=90)).captured == 60
    books = await desk.books()
    assert (books.balance, books.settled, books.overrun) == (40, 60, 30)


async def test_repeated_settle_finds_it_done(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=60)
    following = await desk.submit("ann", ticket.session)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Hi")
    answers = [await desk.settle(claimed, seq=2, cost=10) for _ in range(3)]
    assert answers == [Settled(10), Settled(10), Settled(10)]
    assert await desk.settle(claimed, seq=3, cost=10) is None
    assert (await desk.books()).settled == 10
    assert (await desk.claim_one()).id == following.id
    assert await desk.claim() == []


async def test_an_end_is_an_end(desk: Desk) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    await desk.complete(claimed)
    assert await desk.append(claimed, 5, "more") == "refused"
    assert await desk.release(claimed) == "refused"
    assert await desk.settle(claimed, seq=9, stage="failed") is None
    assert await desk.cancel(ticket) == AlreadyEnded("completed")
    [stop] = await desk.beat(claimed)
    assert stop.why == "lost"
    assert await desk.stage(ticket) == "completed"


async def test_step_that_the_table_lacks_is_refused(desk: Desk) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    with pytest.raises(StoreError, match="ILLEGAL routing to completed"):
        await desk.settle(claimed)
    assert await desk.stage(ticket) == "routing"
    assert await desk.beat(claimed) == []


async def test_ended_generation_keeps_its_answer_and_goes_by_ttl(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.complete(await desk.claim_one(), "The answer")
    for family, longest_ms in ((keys.GENERATION, 60_000), (keys.EVENTS, 30_000)):
        left = await desk.redis.call("PTTL", family(desk.root, "ann", ticket.id))
        assert longest_ms - 10_000 < left <= longest_ms
    look = await desk.status(ticket)
    assert look.record["last"] == "1-2"
    assert {"hold", "worker", "deadline", "seq"}.isdisjoint(look.record)
    await desk.redis.call("DEL", keys.GENERATION(desk.root, "ann", ticket.id))
    kept = await desk.redis.call("HGET", keys.TURNS(desk.root, "ann", ticket.session, 0), "1:a")
    assert decode_assistant(kept).content == "The answer"


async def test_pace_keeps_the_last_answers_of_a_model(desk: Desk) -> None:
    stages: tuple[Stage, ...] = ("completed", "completed", "failed")
    for stage in stages:
        await desk.submit(model="m1")
        claimed = await desk.claim_one()
        await desk.append(claimed, 1, "x")
        await desk.settle(claimed, seq=2, stage=stage)
    durations = await desk.redis.call("LRANGE", keys.PACE(desk.root, "m1"), 0, -1)
    assert len(durations) == 2
    assert all(0 <= int(duration) < 10_000 for duration in durations)
