"""Suspects: which generations are suspected, with how many others they run, what counts."""

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.functions import ClaimAsk, Claimed, ClaimReply
from tests.support.redis_functions import KEEP, LONG_MS, RedisFunctions


async def _claim(
    queue: RedisFunctions, count: int, *, suspects: int = 0, suspects_max: int | None = None
) -> ClaimReply:
    ask = ClaimAsk(
        worker="w",
        wire=1,
        count=count,
        batch=count,
        lease_ms=LONG_MS,
        keep=KEEP,
        claim=0,
        suspects=suspects,
        suspects_max=suspects_max,
    )
    return await functions.claim(queue.redis, queue.root, ask)


async def _die(queue: RedisFunctions, *held: Claimed) -> list[str]:
    """Let the leases expire together; return what the reap reports of each."""
    lapsed = [word for one in held for word in (1, f"{one.account}:{one.id}")]
    await queue.redis.call("ZADD", keys.LEASES(queue.root), "XX", *lapsed)
    return [what for _, _, what in (await queue.reap()).done]


async def _crashes(queue: RedisFunctions, one: Claimed) -> str | None:
    look = await queue.find(one.account, one.id)
    assert look is not None
    return look.record.get("crashes")


async def test_first_death_counts_against_none_and_all_run_again_together(
    queue: RedisFunctions,
) -> None:
    for number in range(6):
        await queue.submit(f"a{number}")
    held = (await _claim(queue, 9)).claimed
    assert await _die(queue, *held) == ["crashed"] * 6
    again = (await _claim(queue, 9)).claimed
    assert [one.suspects_max for one in again] == [6] * 6
    assert {await _crashes(queue, one) for one in again} == {"0"}


async def test_company_shrinks_to_one_that_is_then_counted_alone(queue: RedisFunctions) -> None:
    for number in range(6):
        await queue.submit(f"a{number}")
    await _die(queue, *(await _claim(queue, 9)).claimed)
    await _die(queue, *(await _claim(queue, 9)).claimed)
    pair = (await _claim(queue, 9)).claimed
    assert [one.suspects_max for one in pair] == [2, 2]
    # No third one runs beside them, whichever call claims it.
    assert (await _claim(queue, 9, suspects=2, suspects_max=2)).claimed == []
    await _die(queue, *pair)
    rest = (await _claim(queue, 9)).claimed
    assert len(rest) == 1
    assert rest[0].suspects_max == 1
    fresh = await queue.submit("zoe")
    [beside] = (await _claim(queue, 9, suspects=1, suspects_max=1)).claimed
    assert (beside.id, beside.suspects_max) == (fresh.id, 0)
    await _die(queue, rest[0], beside)
    assert (await _crashes(queue, rest[0]), await _crashes(queue, beside)) == ("1", "0")


async def test_attempt_that_ends_clears_the_suspicion(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.submit("bob")
    await _die(queue, *await queue.claim(2))
    one, other = await queue.claim(2)
    await queue.release(one, delay_ms=60_000)
    await queue.release(other)
    for each in (one, other):
        assert await _crashes(queue, each) is None
    [again] = await queue.claim(2)
    assert (again.id, again.suspects_max) == (other.id, 0)
    assert "falls" not in (await queue.status(ticket)).record


async def test_suspect_that_only_waited_for_room_stays_one(queue: RedisFunctions) -> None:
    await queue.submit()
    await _die(queue, await queue.claim_one())
    one = await queue.claim_one()
    ask = functions.ReleaseAsk(
        account=one.account,
        id=one.id,
        attempt=one.attempt,
        delay_ms=60_000,
        keep=KEEP,
        is_waiting=True,
    )
    assert await functions.release(queue.redis, queue.root, ask) == "released"
    assert await queue.claim() == []
    await queue.redis.call("ZADD", keys.DEFERRED(queue.root), "XX", 1, f"ann:{one.id}")
    await queue.reap()
    assert (await queue.claim_one()).suspects_max == 1


async def test_suspect_of_an_older_process_runs_as_the_only_one(
    queue: RedisFunctions,
) -> None:
    """An older process' reap counts a crash and makes the turn ready, although it is a suspect."""
    tickets = [await queue.submit(f"a{number}") for number in range(3)]
    for ticket in tickets:
        where = keys.GENERATION(queue.root, ticket.account, ticket.id)
        await queue.redis.call("HSET", where, "crashes", 2, "stage", "retrying", "attempt", 2)
    [first] = (await _claim(queue, 9)).claimed
    assert first.suspects_max == 1
    assert (await _claim(queue, 9, suspects=1, suspects_max=1)).claimed == []
    [second] = (await _claim(queue, 9)).claimed
    assert await _die(queue, first) == ["buried"]
    await queue.complete(second)
    [third] = (await _claim(queue, 9)).claimed
    await queue.complete(third)


async def test_suspect_is_found_by_older_workers_in_the_end(queue: RedisFunctions) -> None:
    await queue.submit()
    one = await queue.claim_one()
    await _die(queue, one)
    due = await queue.redis.call("ZSCORE", keys.DEFERRED(queue.root), f"ann:{one.id}")
    assert one.claimed_ms < float(due) < one.claimed_ms + 60_000


async def test_suspects_respect_the_running_max_of_their_account(queue: RedisFunctions) -> None:
    for _ in range(3):
        await queue.submit(running_max=2)
    held = await queue.claim(9)
    assert len(held) == 2
    await _die(queue, held[0])
    [back] = await queue.claim(9)
    assert back.id == held[0].id
    assert await queue.claim(9) == []


async def test_in_a_storm_of_deaths_suspects_run_together_and_none_is_counted(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    await queue.submit("bob")
    for _ in range(2):
        for one in await queue.claim(9):
            await _die(queue, one)
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "storm", 2**50)
    held = await queue.claim(9)
    before = [await _crashes(queue, one) for one in held]
    assert len(held) == 2
    await _die(queue, *held)
    assert [await _crashes(queue, one) for one in held] == before


async def _lapse(queue: RedisFunctions, *names: str) -> None:
    words = [word for name in names for word in (1, name)]
    await queue.redis.call("ZADD", keys.LEASES(queue.root), "XX", *words)


async def _company(queue: RedisFunctions, account: str, id_: str) -> str | None:
    look = await queue.find(account, id_)
    assert look is not None
    return look.record.get("company")


async def test_leases_of_one_worker_that_expire_in_parts_count_together(
    queue: RedisFunctions,
) -> None:
    tickets = [await queue.submit(f"a{number}") for number in range(4)]
    alone = await queue.submit("zoe")
    for _ in tickets:
        one = await queue.claim_one(worker="gone")
        # Some time before the first of them expires.
        where = keys.GENERATION(queue.root, one.account, one.id)
        await queue.redis.call("HSET", where, "started", one.claimed_ms - 9)
    await queue.claim_one(worker="other")
    names = [f"{each.account}:{each.id}" for each in tickets]
    # The first expires before the others, the last after them; a reap's limit splits the rest.
    for piece, limit in ((names[:1], 9), (names[1:3], 1), ((), 1), (names[3:], 9)):
        if piece:
            await _lapse(queue, *piece)
        await queue.reap(limit=limit)
    companies = [await _company(queue, each.account, each.id) for each in tickets]
    assert companies == ["2", "2", "2", "2"]
    await _lapse(queue, f"zoe:{alone.id}")
    await queue.reap()
    assert await _company(queue, "zoe", alone.id) == "0"


async def test_worker_that_lives_on_after_an_expiry_holds_later_claims_alone(
    queue: RedisFunctions,
) -> None:
    first = await queue.submit()
    await queue.claim_one(worker="alive")
    await _lapse(queue, f"ann:{first.id}")
    await queue.reap()
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "lapsed", "alive 1\n")
    second = await queue.submit("bob")
    await queue.claim_one(worker="w")
    await queue.claim_one(worker="alive")
    await _lapse(queue, f"bob:{second.id}")
    await queue.reap()
    assert await _company(queue, "bob", second.id) == "0"


async def test_nothing_joins_the_only_suspect_of_a_worker_in_a_storm(queue: RedisFunctions) -> None:
    await queue.submit()
    await _die(queue, await queue.claim_one())
    one = await queue.claim_one()
    assert one.suspects_max == 1
    await queue.submit("bob")
    await _die(queue, await queue.claim_one())
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "storm", 2**50)
    assert (await _claim(queue, 9, suspects=1, suspects_max=1)).claimed == []
    assert len((await _claim(queue, 9, suspects=4, suspects_max=4)).claimed) == 1


async def _fall_alone(queue: RedisFunctions, *accounts: str) -> None:
    """Let a worker die with only one message, for each account."""
    for account in accounts:
        await queue.submit(account)
    for one in [await queue.claim_one(worker=account) for account in accounts]:
        await _die(queue, one)


async def test_a_counted_suspect_that_completes_shows_that_workers_die_of_something_else(
    queue: RedisFunctions,
) -> None:
    """A generation that waits to be the only suspect of a worker is claimed in the end."""
    accounts = ("ann", "bob", "cem")
    await _fall_alone(queue, *accounts)
    one = await queue.claim_one()
    assert (await _claim(queue, 9, suspects=1, suspects_max=1)).claimed == []
    await _die(queue, one)
    [one] = (await _claim(queue, 9)).claimed
    assert await _crashes(queue, one) == "2"
    await queue.complete(one)
    others = (await _claim(queue, 9)).claimed
    assert {each.account for each in others} == set(accounts) - {one.account}
    await _die(queue, *others)
    assert {await _crashes(queue, each) for each in others} == {"0"}


async def test_a_suspect_that_nothing_was_counted_against_shows_nothing_when_it_completes(
    queue: RedisFunctions,
) -> None:
    await _fall_alone(queue, "ann", "bob", "cem")
    await queue.complete(await queue.claim_one())
    assert len((await _claim(queue, 9)).claimed) == 1


@pytest.mark.parametrize(
    ("is_own_doing", "expected"),
    [(False, [1, 2, 3, 3, 3, 3, 3, 3]), (True, [1, 2, 3, 4, 5, 6, 7, 8])],
)
async def test_two_uncounted_deaths_count_as_calls(
    queue: RedisFunctions, is_own_doing: bool, expected: list[int]
) -> None:
    """A message whose neighbours kill its workers keeps some of its calls."""
    await queue.submit()
    await queue.release(await queue.claim_one(), calls=1)
    # In a storm no death counts against what it ran.
    ends = 1 if is_own_doing else 2**50
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "storm", ends)
    counted = []
    for attempt in range(2, 10):
        one = await queue.claim_one(worker=f"w{attempt}", lease_ms=0)
        counted.append(one.calls)
        await queue.append(one, 2, "Half")
        await queue.reap(crashes_max=99)
    assert counted == expected


def _elsewhere(count: int = 9, *, wire: int = 1, room: int = 0) -> ClaimAsk:
    """Return the claim of a worker that has so much room at the provider of model `one`."""
    return ClaimAsk(
        worker="w2",
        wire=wire,
        count=count,
        batch=count,
        lease_ms=LONG_MS,
        keep=KEEP,
        claim=0,
        room={"p1": room, "p2": 1_000},
        needs={"one": "p1"},
        recheck_ms=LONG_MS,
    )


async def test_suspects_without_room_are_parked_and_hide_no_others(queue: RedisFunctions) -> None:
    for number in range(40):
        await queue.submit(f"a{number}", model="one")
    wanted = {(await queue.submit(f"b{number}", model="two")).id for number in range(3)}
    await _die(queue, *await queue.claim(99))
    batch = await functions.claim(queue.redis, queue.root, _elsewhere())
    assert {one.id for one in batch.claimed} == wanted
    assert ("interactive", "p1") in (await queue.reap(closed=["p1"])).parked_queues
    # They keep their company: all of them run again as soon as there is room.
    taken = await functions.claim(queue.redis, queue.root, _elsewhere(99, room=99))
    assert [one.suspects_max for one in taken.claimed] == [43] * 40
    assert {one.resource for one in taken.claimed} == {"p1"}
    assert (await queue.reap()).parked_queues == frozenset()


async def test_a_parked_suspect_stays_parked_where_it_may_not_run(queue: RedisFunctions) -> None:
    for name in ("ann", "ann", "bob"):
        await queue.submit(name, model="one")
    for _ in range(3):
        held = await queue.claim(9)
        await _die(queue, *held)
    fresh = await queue.submit("ann", model="one")
    await functions.claim(queue.redis, queue.root, _elsewhere())
    before = await queue.redis.call("ZRANGE", keys.DEFERRED(queue.root), 0, -1, "WITHSCORES")
    busy = msgspec.structs.replace(_elsewhere(room=9), suspects=1, suspects_max=1)
    batch = await functions.claim(queue.redis, queue.root, busy)
    assert [one.id for one in batch.claimed] == [fresh.id]
    assert await queue.redis.call("EXISTS", keys.SUSPECTS(queue.root)) == 0
    after = await queue.redis.call("ZRANGE", keys.DEFERRED(queue.root), 0, -1, "WITHSCORES")
    assert [one for one in before if f"ann:{fresh.id}".encode() not in one] == [
        one for one in after if f"ann:{fresh.id}".encode() not in one
    ]
    free = (await functions.claim(queue.redis, queue.root, _elsewhere(room=9))).claimed
    assert [one.suspects_max for one in free] == [1]


async def test_suspects_of_an_account_at_its_running_max_hide_no_others(
    queue: RedisFunctions,
) -> None:
    for _ in range(40):
        await queue.submit("ann")
    other = await queue.submit("bob")
    await _die(queue, *await queue.claim(99))
    await queue.redis.call("HSET", keys.ACCOUNT_TOTALS(queue.root, "ann"), "running_most", 0)
    assert [one.id for one in await queue.claim(9)] == [other.id]


async def test_suspects_for_a_newer_worker_hide_no_others(queue: RedisFunctions) -> None:
    for number in range(99):
        await queue.submit(f"a{number}", wire=2)
    other = await queue.submit("bob")
    await _die(queue, *await queue.claim(200, wire=2))
    taken: list[Claimed] = []
    while not taken:
        taken = await queue.claim(9, wire=1)
    assert [one.id for one in taken] == [other.id]
