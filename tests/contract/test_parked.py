"""Parked turns: which turns wait for a key or for room, which worker is woken, in which order."""

from collections import Counter
from typing import Final

from shared.redis import functions, keys
from shared.redis.functions import ClaimAsk
from shared.wire.submission import LANE_WAKEUP_WIRE, WIRE, Lane
from tests.support.redis_functions import KEEP, LONG_MS, RedisFunctions, Ticket

_PLENTY: Final = 1_000
_NEEDS: Final = {"one": "p1", "two": "p2"}
_HERE: Final = {"p2": _PLENTY}


async def _wakeups(queue: RedisFunctions, resource: str, lane: Lane = "interactive") -> int:
    return int(await queue.redis.call("LLEN", keys.WAKEUP_FOR(queue.root, lane, resource)))


async def _lines(queue: RedisFunctions) -> set[tuple[Lane, str]]:
    return set((await queue.reap(closed=["p1", "p2", "p3"])).parked_queues)


async def _is_deferred(queue: RedisFunctions, ticket: Ticket) -> bool:
    name = f"{ticket.account}:{ticket.id}"
    return await queue.redis.call("ZSCORE", keys.DEFERRED(queue.root), name) is not None


async def test_a_turn_for_another_worker_is_parked_without_an_attempt(
    queue: RedisFunctions,
) -> None:
    theirs = await queue.submit(model="one")
    ours = await queue.submit(model="two")
    assert [one.id for one in await queue.claim(9, room=_HERE, needs=_NEEDS)] == [ours.id]
    record = (await queue.status(theirs)).record
    assert (record["stage"], record["attempt"]) == ("queued", "0")
    assert await _is_deferred(queue, theirs)
    assert await _wakeups(queue, "p1") == 1
    assert await _lines(queue) == {("interactive", "p1")}
    assert await queue.claim(9, room=_HERE, needs=_NEEDS) == []
    [claimed] = await queue.claim(9, worker="worker-2", room={"p1": _PLENTY})
    assert (claimed.id, claimed.attempt) == (theirs.id, 1)
    assert await _wakeups(queue, "p1") == 0
    assert await _lines(queue) == set()
    assert not await _is_deferred(queue, theirs)
    assert "parked" not in (await queue.status(theirs)).record


async def test_wakeup_of_a_parked_turn_reaches_a_worker_with_its_resource(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit(model="one")
    await queue.claim(9, room=_HERE, needs=_NEEDS)
    ask = ClaimAsk(
        worker="worker-2", wire=1, count=1, batch=1, lease_ms=LONG_MS, keep=KEEP, claim=1
    )
    wakeup_keys = functions.keys_to_wait_on((queue.root,), {"p1": 1}, ask.wire, with_batch=True)
    wakeup_key, _ = await queue.redis.call("BLPOP", *wakeup_keys, 1)
    assert wakeup_key.decode() == keys.WAKEUP_FOR(queue.root, "interactive", "p1")
    assert [one.id for one in await queue.claim(room={"p1": 1})] == [ticket.id]


async def test_turn_without_room_is_parked_and_wakes_no_worker(queue: RedisFunctions) -> None:
    ticket = await queue.submit(model="one")
    assert await queue.claim(9, room={"p1": 0}, needs=_NEEDS) == []
    assert await _is_deferred(queue, ticket)
    assert await _wakeups(queue, "p1") == 0


async def test_as_many_turns_are_claimed_as_have_room_the_oldest_first(
    queue: RedisFunctions,
) -> None:
    tickets = [await queue.submit(model="one") for _ in range(7)]
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    later = await queue.submit(model="one")
    taken = await queue.claim(9, room={"p1": 3}, needs=_NEEDS)
    assert [one.id for one in taken] == [ticket.id for ticket in tickets[:3]]
    taken = await queue.claim(9, room={"p1": 5}, needs=_NEEDS)
    assert [one.id for one in taken] == [ticket.id for ticket in [*tickets[3:], later]]
    assert await _lines(queue) == set()


async def test_accounts_share_the_room_by_their_weights(queue: RedisFunctions) -> None:
    for number in range(60):
        await queue.submit("ann", model="one", stride=1_000)
        if number >= 30:
            await queue.submit("bob", model="one", stride=500)
    await queue.claim(100, room={"p1": 0}, needs=_NEEDS)
    await queue.claim(100, room={"p1": 0}, needs=_NEEDS)
    taken = [
        one.account for _ in range(30) for one in await queue.claim(9, room={"p1": 1}, needs=_NEEDS)
    ]
    assert Counter(taken) == {"ann": 10, "bob": 20}


async def test_account_does_not_exceed_its_running_max(queue: RedisFunctions) -> None:
    mine = [await queue.submit("ann", model="one", running_max=2) for _ in range(4)]
    other = await queue.submit("bob", model="one")
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    taken = await queue.claim(9, room={"p1": 9}, needs=_NEEDS)
    assert {one.id for one in taken} == {mine[0].id, mine[1].id, other.id}
    assert await queue.claim(9, room={"p1": 9}, needs=_NEEDS) == []
    await queue.complete(next(one for one in taken if one.id == mine[0].id))
    [following] = await queue.claim(9, room={"p1": 9}, needs=_NEEDS)
    assert following.id == mine[2].id


async def test_interactive_turns_go_before_batches_among_parked_turns(
    queue: RedisFunctions,
) -> None:
    batch = [await queue.submit(model="one", lane="batch") for _ in range(2)]
    interactive = await queue.submit(model="one")
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    assert await _lines(queue) == {("interactive", "p1"), ("batch", "p1")}
    [first] = await queue.claim(9, room={"p1": 1}, needs=_NEEDS)
    assert first.id == interactive.id
    assert await queue.claim(9, batch=0, room={"p1": 9}, needs=_NEEDS) == []
    taken = await queue.claim(9, room={"p1": 9}, needs=_NEEDS)
    assert [one.id for one in taken] == [ticket.id for ticket in batch]


async def test_parked_batches_do_not_starve_behind_interactive_turns(queue: RedisFunctions) -> None:
    batch = await queue.submit(model="one", lane="batch")
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    taken = []
    for _ in range(25):
        await queue.submit(model="two")
        [claimed] = await queue.claim(1, room={"p1": 9, "p2": 9}, needs=_NEEDS)
        taken.append(claimed.id)
    assert batch.id in taken[:21]


async def test_a_new_turn_goes_behind_parked_ones_of_its_account(queue: RedisFunctions) -> None:
    parked = await queue.submit(model="one")
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    fresh = await queue.submit(model="one")
    taken = await queue.claim(2, room={"p1": 2}, needs=_NEEDS)
    assert [one.id for one in taken] == [parked.id, fresh.id]


async def test_parked_turn_of_several_resources_takes_the_first_with_room(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    await queue.release(claimed, delay_ms=LONG_MS, parked="p1 p2")
    assert await _lines(queue) == {("interactive", "p1"), ("interactive", "p2")}
    assert await queue.claim(9, room={"p1": 0}) == []
    [again] = await queue.claim(9, room={"p1": 0, "p2": 1})
    assert (again.id, again.attempt) == (ticket.id, 2)
    assert await _lines(queue) == set()


async def test_turn_waits_for_an_open_circuit_while_its_provider_has_room(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit(model="one")
    needs = {"one": "p1|one"}
    assert await queue.claim(9, room={"p1": 9, "p1|one": 0}, needs=needs) == []
    assert await queue.claim(9, room={"p1": 9, "p1|one": 0}, needs=needs) == []
    assert await _wakeups(queue, "p1|one") == 0
    [claimed] = await queue.claim(9, room={"p1": 9})
    assert claimed.id == ticket.id


async def test_released_turn_wakes_a_worker_with_its_resource(queue: RedisFunctions) -> None:
    await queue.submit()
    claimed = await queue.claim_one()
    await queue.release(claimed, delay_ms=LONG_MS, parked="p1", is_elsewhere=True)
    assert await _wakeups(queue, "p1") == 1


async def test_parked_turn_of_an_open_circuit_stays_parked_when_it_is_due(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit(model="one")
    await queue.claim(9, room=_HERE, needs=_NEEDS)
    where, name = keys.DEFERRED(queue.root), f"ann:{ticket.id}"
    await queue.redis.call("ZADD", where, "XX", 1, name)
    await queue.reap(closed=["p1"])
    assert float(await queue.redis.call("ZSCORE", where, name)) > 1
    assert await queue.claim(9) == []
    await queue.redis.call("ZADD", where, "XX", 1, name)
    await queue.reap(closed=["p2"])
    assert await _lines(queue) == set()
    assert [one.id for one in await queue.claim(9)] == [ticket.id]


async def test_older_process_brings_a_parked_turn_back(
    queue: RedisFunctions,
) -> None:
    """What 0.6 does with a due turn: it moves from `deferred` to the ready turns, nothing else."""
    ticket = await queue.submit(model="one")
    await queue.claim(9, room=_HERE, needs=_NEEDS)
    number = (await queue.status(ticket)).record["number"]
    await queue.redis.call("ZREM", keys.DEFERRED(queue.root), f"ann:{ticket.id}")
    await queue.redis.call("ZADD", keys.READY(queue.root, "ann", "interactive"), number, ticket.id)
    await queue.redis.call("ZADD", keys.LANE(queue.root, "interactive"), 0, "ann")
    taken = await queue.claim(9, room={"p1": 9})
    assert [one.id for one in taken] == [ticket.id]
    await queue.complete(taken[0])
    assert await queue.claim(9, room={"p1": 9}) == []
    assert await _lines(queue) == set()


async def test_entry_that_an_older_process_left_in_a_queue_is_removed(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit(model="one")
    await queue.claim(9, room=_HERE, needs=_NEEDS)
    record = (await queue.status(ticket)).record["parked"]
    [claimed] = await queue.claim(9, room={"p1": 9})
    # As if it had been claimed by a function that knows no queues of parked turns.
    turns = keys.PARKED_TURNS(queue.root, "ann", "interactive", "p1")
    await queue.redis.call("ZADD", turns, 1, ticket.id)
    await queue.redis.call("ZADD", keys.PARKED(queue.root, "interactive", "p1"), 0, "ann")
    await queue.redis.call("SADD", keys.PARKED_QUEUES(queue.root), "interactive:p1")
    where = keys.GENERATION(queue.root, "ann", ticket.id)
    await queue.redis.call("HSET", where, "parked", record)
    assert await queue.claim(9, room={"p1": 9}) == []
    assert await _lines(queue) == set()
    assert await queue.beat(claimed) == []


async def test_turn_that_ends_while_parked_leaves_its_queues(queue: RedisFunctions) -> None:
    cancelled = await queue.submit(model="one")
    expired = await queue.submit(model="one")
    deleted = await queue.submit(model="one")
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    await queue.cancel(cancelled)
    await queue.redis.call("ZADD", keys.DEADLINES(queue.root), "XX", 1, f"ann:{expired.id}")
    await queue.reap(closed=["p1"])
    assert await _lines(queue) == {("interactive", "p1")}
    await queue.delete_session("ann", deleted.session)
    assert await _lines(queue) == set()
    assert await queue.claim(9, room={"p1": 9}) == []
    assert await queue.stage(cancelled) == "cancelled"
    assert await queue.stage(expired) == "failed"


async def test_many_turns_without_room_are_parked_in_bounded_calls(queue: RedisFunctions) -> None:
    for number in range(150):
        await queue.submit(f"a{number % 10}", model="one")
    ours = await queue.submit("zoe", model="two")
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
        recheck_ms=LONG_MS,
    )
    batches = [await functions.claim(queue.redis, queue.root, ask) for _ in range(3)]
    assert [one.id for batch in batches for one in batch.claimed] == [ours.id]
    assert [batch.is_more for batch in batches] == [True, True, False]


async def test_newer_wire_has_a_wakeup_that_older_workers_do_not_wait_on(
    queue: RedisFunctions,
) -> None:
    newer = await queue.submit(wire=WIRE + 1)
    assert await queue.redis.call("LLEN", keys.WAKEUP(queue.root, "interactive")) == 0
    wakeup_key = f"wire|{WIRE + 1}"
    assert await _wakeups(queue, wakeup_key) == 1
    older = functions.keys_to_wait_on((queue.root,), (), LANE_WAKEUP_WIRE, with_batch=True)
    assert older == [keys.WAKEUP(queue.root, lane) for lane in ("interactive", "batch")]
    known = functions.keys_to_wait_on((queue.root,), (), WIRE + 1, with_batch=False)
    assert keys.WAKEUP_FOR(queue.root, "interactive", wakeup_key) in known
    assert [one.id for one in await queue.claim(9, wire=WIRE + 1)] == [newer.id]
    assert await _wakeups(queue, wakeup_key) == 0


async def test_reap_returns_the_lanes_with_ready_turns(queue: RedisFunctions) -> None:
    assert (await queue.reap()).ready == frozenset()
    await queue.submit(lane="batch")
    assert (await queue.reap()).ready == {"batch"}


async def test_expired_parked_turn_uses_no_room(queue: RedisFunctions) -> None:
    expired = await queue.submit(model="one", deadline_ms=1)
    await queue.claim(9, room={"p1": 0}, needs=_NEEDS)
    where = keys.GENERATION(queue.root, "ann", expired.id)
    await queue.redis.call("HSET", where, "deadline", 1)
    ready = await queue.submit(model="one")
    [taken] = await queue.claim(9, room={"p1": 1}, needs=_NEEDS)
    assert (taken.id, taken.resource) == (ready.id, "p1")
    assert await queue.stage(expired) == "failed"


async def test_a_claim_names_the_resource_whose_room_each_turn_uses(queue: RedisFunctions) -> None:
    needs = {"one": "p1|one", "two": "p2"}
    for model in ("one", "two", "three"):
        await queue.submit(model, model=model)
    taken = await queue.claim(9, room={"p1": 9, "p1|one": 1, "p2": 9}, needs=needs)
    assert {one.account: one.resource for one in taken} == {
        "one": "p1|one",
        "two": "p2",
        "three": "",
    }


async def test_end_wakes_a_worker_for_parked_turns_of_an_account_at_its_limit(
    queue: RedisFunctions,
) -> None:
    for account, most in (("ann", 1), ("bob", 9)):
        for model in ("one", "two"):
            await queue.submit(account, model=model, running_max=most)
    running = await queue.claim(9, room=_HERE, needs=_NEEDS)
    rings = {}
    for one in running:
        await queue.redis.call("DEL", keys.WAKEUP_FOR(queue.root, "interactive", "p1"))
        await queue.complete(one)
        rings[one.account] = await _wakeups(queue, "p1")
    assert rings == {"ann": 1, "bob": 0}
