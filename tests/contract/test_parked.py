"""Parked turns: what waits for a key or for room, who is woken for it, and in which order."""

from collections import Counter
from typing import Final

from shared.redis import functions, keys
from shared.redis.functions import ClaimAsk
from shared.wire.submission import WIRE, Lane
from tests.support.desk import KEEP, LONG_MS, Desk, Ticket

_PLENTY: Final = 1_000
_NEEDS: Final = {"one": "p1", "two": "p2"}
_HERE: Final = {"p2": _PLENTY}


async def _rings(desk: Desk, resource: str, lane: Lane = "interactive") -> int:
    return int(await desk.redis.call("LLEN", keys.BELL_FOR(desk.root, lane, resource)))


async def _lines(desk: Desk) -> set[tuple[Lane, str]]:
    return set((await desk.reap(closed=["p1", "p2", "p3"])).lines)


async def _is_deferred(desk: Desk, ticket: Ticket) -> bool:
    name = f"{ticket.account}:{ticket.id}"
    return await desk.redis.call("ZSCORE", keys.DEFERRED(desk.root), name) is not None


async def test_a_turn_for_another_worker_is_parked_without_an_attempt(desk: Desk) -> None:
    theirs = await desk.submit(model="one")
    ours = await desk.submit(model="two")
    assert [one.id for one in await desk.claim(9, room=_HERE, needs=_NEEDS)] == [ours.id]
    record = (await desk.status(theirs)).record
    assert (record["stage"], record["attempt"]) == ("queued", "0")
    assert await _is_deferred(desk, theirs)
    assert await _rings(desk, "p1") == 1
    assert await _lines(desk) == {("interactive", "p1")}
    assert await desk.claim(9, room=_HERE, needs=_NEEDS) == []
    [claimed] = await desk.claim(9, worker="worker-2", room={"p1": _PLENTY})
    assert (claimed.id, claimed.attempt) == (theirs.id, 1)
    assert await _rings(desk, "p1") == 0
    assert await _lines(desk) == set()
    assert not await _is_deferred(desk, theirs)
    assert "parked" not in (await desk.status(theirs)).record


async def test_the_ring_of_a_parked_turn_wakes_who_has_what_it_needs(desk: Desk) -> None:
    ticket = await desk.submit(model="one")
    await desk.claim(9, room=_HERE, needs=_NEEDS)
    ask = ClaimAsk(
        worker="worker-2", wire=1, count=1, batch=1, lease_ms=LONG_MS, keep=KEEP, claim=1
    )
    bells = functions._bells((desk.root,), {"p1": 1}, ask.wire, with_batch=True)
    bell, _ = await desk.redis.call("BLPOP", *bells, 1)
    assert bell.decode() == keys.BELL_FOR(desk.root, "interactive", "p1")
    assert [one.id for one in await desk.claim(room={"p1": 1})] == [ticket.id]


async def test_no_room_parks_and_wakes_nobody(desk: Desk) -> None:
    ticket = await desk.submit(model="one")
    assert await desk.claim(9, room={"p1": 0}, needs=_NEEDS) == []
    assert await _is_deferred(desk, ticket)
    assert await _rings(desk, "p1") == 0


async def test_as_many_are_taken_as_have_room_oldest_first(desk: Desk) -> None:
    tickets = [await desk.submit(model="one") for _ in range(7)]
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    later = await desk.submit(model="one")
    taken = await desk.claim(9, room={"p1": 3}, needs=_NEEDS)
    assert [one.id for one in taken] == [ticket.id for ticket in tickets[:3]]
    taken = await desk.claim(9, room={"p1": 5}, needs=_NEEDS)
    assert [one.id for one in taken] == [ticket.id for ticket in [*tickets[3:], later]]
    assert await _lines(desk) == set()


async def test_accounts_share_the_room_by_their_weights(desk: Desk) -> None:
    for number in range(60):
        await desk.submit("ann", model="one", stride=1_000)
        if number >= 30:
            await desk.submit("bob", model="one", stride=500)
    await desk.claim(100, room={"p1": 0}, needs=_NEEDS)
    await desk.claim(100, room={"p1": 0}, needs=_NEEDS)
    taken = [
        one.account for _ in range(30) for one in await desk.claim(9, room={"p1": 1}, needs=_NEEDS)
    ]
    assert Counter(taken) == {"ann": 10, "bob": 20}


async def test_an_account_does_not_exceed_what_it_may_run(desk: Desk) -> None:
    mine = [await desk.submit("ann", model="one", running_max=2) for _ in range(4)]
    other = await desk.submit("bob", model="one")
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    taken = await desk.claim(9, room={"p1": 9}, needs=_NEEDS)
    assert {one.id for one in taken} == {mine[0].id, mine[1].id, other.id}
    assert await desk.claim(9, room={"p1": 9}, needs=_NEEDS) == []
    await desk.complete(next(one for one in taken if one.id == mine[0].id))
    [following] = await desk.claim(9, room={"p1": 9}, needs=_NEEDS)
    assert following.id == mine[2].id


async def test_persons_go_before_a_batch_among_parked_turns(desk: Desk) -> None:
    batch = [await desk.submit(model="one", lane="batch") for _ in range(2)]
    person = await desk.submit(model="one")
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    assert await _lines(desk) == {("interactive", "p1"), ("batch", "p1")}
    [first] = await desk.claim(9, room={"p1": 1}, needs=_NEEDS)
    assert first.id == person.id
    assert await desk.claim(9, batch=0, room={"p1": 9}, needs=_NEEDS) == []
    taken = await desk.claim(9, room={"p1": 9}, needs=_NEEDS)
    assert [one.id for one in taken] == [ticket.id for ticket in batch]


async def test_parked_batches_do_not_starve_behind_persons(desk: Desk) -> None:
    batch = await desk.submit(model="one", lane="batch")
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    taken = []
    for _ in range(25):
        await desk.submit(model="two")
        [claimed] = await desk.claim(1, room={"p1": 9, "p2": 9}, needs=_NEEDS)
        taken.append(claimed.id)
    assert batch.id in taken[:21]


async def test_a_new_turn_goes_behind_parked_ones_of_its_account(desk: Desk) -> None:
    parked = await desk.submit(model="one")
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    fresh = await desk.submit(model="one")
    taken = await desk.claim(2, room={"p1": 2}, needs=_NEEDS)
    assert [one.id for one in taken] == [parked.id, fresh.id]


async def test_a_parked_turn_that_may_go_to_several_goes_to_the_first_with_room(
    desk: Desk,
) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    await desk.release(claimed, delay_ms=LONG_MS, parked="p1 p2")
    assert await _lines(desk) == {("interactive", "p1"), ("interactive", "p2")}
    assert await desk.claim(9, room={"p1": 0}) == []
    [again] = await desk.claim(9, room={"p1": 0, "p2": 1})
    assert (again.id, again.attempt) == (ticket.id, 2)
    assert await _lines(desk) == set()


async def test_a_circuit_that_cools_is_waited_for_while_its_provider_has_room(desk: Desk) -> None:
    ticket = await desk.submit(model="one")
    needs = {"one": "p1|one"}
    assert await desk.claim(9, room={"p1": 9, "p1|one": 0}, needs=needs) == []
    assert await desk.claim(9, room={"p1": 9, "p1|one": 0}, needs=needs) == []
    assert await _rings(desk, "p1|one") == 0
    [claimed] = await desk.claim(9, room={"p1": 9})
    assert claimed.id == ticket.id


async def test_a_released_turn_rings_for_who_has_what_it_needs(desk: Desk) -> None:
    await desk.submit()
    claimed = await desk.claim_one()
    await desk.release(claimed, delay_ms=LONG_MS, parked="p1", is_elsewhere=True)
    assert await _rings(desk, "p1") == 1


async def test_what_is_parked_and_closed_is_not_claimed_in_vain_when_it_is_due(desk: Desk) -> None:
    ticket = await desk.submit(model="one")
    await desk.claim(9, room=_HERE, needs=_NEEDS)
    where, name = keys.DEFERRED(desk.root), f"ann:{ticket.id}"
    await desk.redis.call("ZADD", where, "XX", 1, name)
    await desk.reap(closed=["p1"])
    assert float(await desk.redis.call("ZSCORE", where, name)) > 1
    assert await desk.claim(9) == []
    await desk.redis.call("ZADD", where, "XX", 1, name)
    await desk.reap(closed=["p2"])
    assert await _lines(desk) == set()
    assert [one.id for one in await desk.claim(9)] == [ticket.id]


async def test_a_process_that_knows_no_lines_brings_a_parked_turn_back(desk: Desk) -> None:
    """What 0.6 does with what is due: out of the deferred, into the line, and nothing else."""
    ticket = await desk.submit(model="one")
    await desk.claim(9, room=_HERE, needs=_NEEDS)
    number = (await desk.status(ticket)).record["number"]
    await desk.redis.call("ZREM", keys.DEFERRED(desk.root), f"ann:{ticket.id}")
    await desk.redis.call("ZADD", keys.READY(desk.root, "ann", "interactive"), number, ticket.id)
    await desk.redis.call("ZADD", keys.LANE(desk.root, "interactive"), 0, "ann")
    taken = await desk.claim(9, room={"p1": 9})
    assert [one.id for one in taken] == [ticket.id]
    await desk.complete(taken[0])
    assert await desk.claim(9, room={"p1": 9}) == []
    assert await _lines(desk) == set()


async def test_what_an_older_process_left_in_a_line_is_removed_by_who_finds_it(desk: Desk) -> None:
    ticket = await desk.submit(model="one")
    await desk.claim(9, room=_HERE, needs=_NEEDS)
    record = (await desk.status(ticket)).record["parked"]
    [claimed] = await desk.claim(9, room={"p1": 9})
    # As if it had been claimed by a function that does not look at lines.
    turns = keys.PARKED_TURNS(desk.root, "ann", "interactive", "p1")
    await desk.redis.call("ZADD", turns, 1, ticket.id)
    await desk.redis.call("ZADD", keys.PARKED(desk.root, "interactive", "p1"), 0, "ann")
    await desk.redis.call("SADD", keys.PARKED_LINES(desk.root), "interactive:p1")
    where = keys.GENERATION(desk.root, "ann", ticket.id)
    await desk.redis.call("HSET", where, "parked", record)
    assert await desk.claim(9, room={"p1": 9}) == []
    assert await _lines(desk) == set()
    assert await desk.beat(claimed) == []


async def test_what_ends_while_it_is_parked_leaves_its_lines(desk: Desk) -> None:
    cancelled = await desk.submit(model="one")
    expired = await desk.submit(model="one")
    deleted = await desk.submit(model="one")
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    await desk.cancel(cancelled)
    await desk.redis.call("ZADD", keys.DEADLINES(desk.root), "XX", 1, f"ann:{expired.id}")
    await desk.reap(closed=["p1"])
    assert await _lines(desk) == {("interactive", "p1")}
    await desk.delete_session("ann", deleted.session)
    assert await _lines(desk) == set()
    assert await desk.claim(9, room={"p1": 9}) == []
    assert await desk.stage(cancelled) == "cancelled"
    assert await desk.stage(expired) == "failed"


async def test_much_that_cannot_be_taken_is_parked_in_bounded_calls(desk: Desk) -> None:
    for number in range(150):
        await desk.submit(f"a{number % 10}", model="one")
    ours = await desk.submit("zoe", model="two")
    ask = ClaimAsk(
        worker="worker-1",
        wire=1,
        count=9,
        batch=9,
        lease_ms=LONG_MS,
        keep=KEEP,
        claim=1,
        room=_HERE,
        needs=_NEEDS,
        look_again_ms=LONG_MS,
    )
    batches = [await functions.claim(desk.redis, desk.root, ask) for _ in range(3)]
    assert [one.id for batch in batches for one in batch.claimed] == [ours.id]
    assert [batch.is_more for batch in batches] == [True, True, False]


async def test_a_newer_wire_rings_where_older_workers_do_not_wait(desk: Desk) -> None:
    newer = await desk.submit(wire=WIRE + 1)
    assert await desk.redis.call("LLEN", keys.BELL(desk.root, "interactive")) == 0
    bell = f"wire|{WIRE + 1}"
    assert await _rings(desk, bell) == 1
    older = functions._bells((desk.root,), (), WIRE, with_batch=True)
    assert older == [keys.BELL(desk.root, lane) for lane in ("interactive", "batch")]
    known = functions._bells((desk.root,), (), WIRE + 1, with_batch=False)
    assert keys.BELL_FOR(desk.root, "interactive", bell) in known
    assert [one.id for one in await desk.claim(9, wire=WIRE + 1)] == [newer.id]
    assert await _rings(desk, bell) == 0


async def test_a_reap_tells_in_which_lanes_something_is_ready(desk: Desk) -> None:
    assert (await desk.reap()).ready == frozenset()
    await desk.submit(lane="batch")
    assert (await desk.reap()).ready == {"batch"}


async def test_what_has_expired_in_a_line_uses_no_room(desk: Desk) -> None:
    expired = await desk.submit(model="one", deadline_ms=1)
    await desk.claim(9, room={"p1": 0}, needs=_NEEDS)
    where = keys.GENERATION(desk.root, "ann", expired.id)
    await desk.redis.call("HSET", where, "deadline", 1)
    ready = await desk.submit(model="one")
    [taken] = await desk.claim(9, room={"p1": 1}, needs=_NEEDS)
    assert (taken.id, taken.resource) == (ready.id, "p1")
    assert await desk.stage(expired) == "failed"


async def test_a_claim_names_the_resource_whose_room_each_turn_uses(desk: Desk) -> None:
    needs = {"one": "p1|one", "two": "p2"}
    for model in ("one", "two", "three"):
        await desk.submit(model, model=model)
    taken = await desk.claim(9, room={"p1": 9, "p1|one": 1, "p2": 9}, needs=needs)
    assert {one.account: one.resource for one in taken} == {
        "one": "p1|one",
        "two": "p2",
        "three": "",
    }


async def test_an_end_rings_for_parked_turns_of_an_account_that_could_run_no_more(
    desk: Desk,
) -> None:
    for account, most in (("ann", 1), ("bob", 9)):
        for model in ("one", "two"):
            await desk.submit(account, model=model, running_max=most)
    running = await desk.claim(9, room=_HERE, needs=_NEEDS)
    rings = {}
    for one in running:
        await desk.redis.call("DEL", keys.BELL_FOR(desk.root, "interactive", "p1"))
        await desk.complete(one)
        rings[one.account] = await _rings(desk, "p1")
    assert rings == {"ann": 1, "bob": 0}
