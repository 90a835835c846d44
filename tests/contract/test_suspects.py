"""What a dead worker held: who is suspected, in which company it runs again, what is counted."""

import msgspec
import pytest

from shared.redis import functions, keys
from shared.redis.functions import Batch, ClaimAsk, Claimed
from tests.support.desk import KEEP, LONG_MS, Desk


async def _claim(desk: Desk, count: int, *, suspects: int = 0, company: int | None = None) -> Batch:
    ask = ClaimAsk(
        worker="w",
        wire=1,
        count=count,
        batch=count,
        lease_ms=LONG_MS,
        keep=KEEP,
        claim=0,
        suspects=suspects,
        company=company,
    )
    return await functions.claim(desk.redis, desk.root, ask)


async def _die(desk: Desk, *held: Claimed) -> list[str]:
    """Let the leases lapse together; return what is told of each."""
    lapsed = [word for one in held for word in (1, f"{one.account}:{one.id}")]
    await desk.redis.call("ZADD", keys.LEASES(desk.root), "XX", *lapsed)
    return [what for _, _, what in (await desk.reap()).done]


async def _crashes(desk: Desk, one: Claimed) -> str | None:
    look = await desk.find(one.account, one.id)
    assert look is not None
    return look.record.get("crashes")


async def test_first_death_counts_against_nobody_and_all_of_it_runs_again_together(
    desk: Desk,
) -> None:
    for number in range(6):
        await desk.submit(f"a{number}")
    held = (await _claim(desk, 9)).claimed
    assert await _die(desk, *held) == ["crashed"] * 6
    again = (await _claim(desk, 9)).claimed
    assert [one.company for one in again] == [6] * 6
    assert {await _crashes(desk, one) for one in again} == {"0"}


async def test_company_shrinks_to_one_that_is_then_counted_alone(desk: Desk) -> None:
    for number in range(6):
        await desk.submit(f"a{number}")
    await _die(desk, *(await _claim(desk, 9)).claimed)
    await _die(desk, *(await _claim(desk, 9)).claimed)
    pair = (await _claim(desk, 9)).claimed
    assert [one.company for one in pair] == [2, 2]
    # No third one beside them, by whichever call.
    assert (await _claim(desk, 9, suspects=2, company=2)).claimed == []
    await _die(desk, *pair)
    rest = (await _claim(desk, 9)).claimed
    assert len(rest) == 1
    assert rest[0].company == 1
    fresh = await desk.submit("zoe")
    [beside] = (await _claim(desk, 9, suspects=1, company=1)).claimed
    assert (beside.id, beside.company) == (fresh.id, 0)
    await _die(desk, rest[0], beside)
    assert (await _crashes(desk, rest[0]), await _crashes(desk, beside)) == ("1", "0")


async def test_suspect_that_ends_an_attempt_is_none_any_more(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.submit("bob")
    await _die(desk, *await desk.claim(2))
    one, other = await desk.claim(2)
    await desk.release(one, delay_ms=60_000)
    await desk.release(other)
    for each in (one, other):
        assert await _crashes(desk, each) is None
    [again] = await desk.claim(2)
    assert (again.id, again.company) == (other.id, 0)
    assert "falls" not in (await desk.status(ticket)).record


async def test_what_only_waited_for_room_stays_a_suspect(desk: Desk) -> None:
    await desk.submit()
    await _die(desk, await desk.claim_one())
    one = await desk.claim_one()
    ask = functions.ReleaseAsk(
        account=one.account,
        id=one.id,
        attempt=one.attempt,
        delay_ms=60_000,
        keep=KEEP,
        is_waiting=True,
    )
    assert await functions.release(desk.redis, desk.root, ask) == "released"
    assert await desk.claim() == []
    await desk.redis.call("ZADD", keys.DEFERRED(desk.root), "XX", 1, f"ann:{one.id}")
    await desk.reap()
    assert (await desk.claim_one()).company == 1


async def test_what_an_older_process_counted_runs_as_the_only_suspect(desk: Desk) -> None:
    """An older reaper counts and puts it back into its account's line, suspects and all."""
    tickets = [await desk.submit(f"a{number}") for number in range(3)]
    for ticket in tickets:
        where = keys.GENERATION(desk.root, ticket.account, ticket.id)
        await desk.redis.call("HSET", where, "crashes", 2, "stage", "retrying", "attempt", 2)
    [first] = (await _claim(desk, 9)).claimed
    assert first.company == 1
    assert (await _claim(desk, 9, suspects=1, company=1)).claimed == []
    [second] = (await _claim(desk, 9)).claimed
    assert await _die(desk, first) == ["buried"]
    await desk.complete(second)
    [third] = (await _claim(desk, 9)).claimed
    await desk.complete(third)


async def test_suspect_is_found_by_older_workers_in_the_end(desk: Desk) -> None:
    await desk.submit()
    one = await desk.claim_one()
    await _die(desk, one)
    due = await desk.redis.call("ZSCORE", keys.DEFERRED(desk.root), f"ann:{one.id}")
    assert one.claimed_ms < float(due) < one.claimed_ms + 60_000


async def test_suspects_stand_behind_what_their_account_may_run(desk: Desk) -> None:
    for _ in range(3):
        await desk.submit(running_max=2)
    held = await desk.claim(9)
    assert len(held) == 2
    await _die(desk, held[0])
    [back] = await desk.claim(9)
    assert back.id == held[0].id
    assert await desk.claim(9) == []


async def test_in_a_storm_of_deaths_suspects_run_together_and_none_is_counted(desk: Desk) -> None:
    await desk.submit()
    await desk.submit("bob")
    for _ in range(2):
        for one in await desk.claim(9):
            await _die(desk, one)
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "storm", 2**50)
    held = await desk.claim(9)
    before = [await _crashes(desk, one) for one in held]
    assert len(held) == 2
    await _die(desk, *held)
    assert [await _crashes(desk, one) for one in held] == before


async def _lapse(desk: Desk, *names: str) -> None:
    words = [word for name in names for word in (1, name)]
    await desk.redis.call("ZADD", keys.LEASES(desk.root), "XX", *words)


async def _company(desk: Desk, account: str, id_: str) -> str | None:
    look = await desk.find(account, id_)
    assert look is not None
    return look.record.get("company")


async def test_leases_of_one_worker_that_lapse_in_pieces_were_none_of_them_alone(
    desk: Desk,
) -> None:
    tickets = [await desk.submit(f"a{number}") for number in range(4)]
    alone = await desk.submit("zoe")
    for _ in tickets:
        one = await desk.claim_one(worker="gone")
        # Some time before the first of them lapses.
        where = keys.GENERATION(desk.root, one.account, one.id)
        await desk.redis.call("HSET", where, "started", one.claimed_ms - 9)
    await desk.claim_one(worker="other")
    names = [f"{each.account}:{each.id}" for each in tickets]
    # The first before the others, the last after them, those between cut by what a reap takes.
    for piece, limit in ((names[:1], 9), (names[1:3], 1), ((), 1), (names[3:], 9)):
        if piece:
            await _lapse(desk, *piece)
        await desk.reap(limit=limit)
    companies = [await _company(desk, each.account, each.id) for each in tickets]
    assert companies == ["2", "2", "2", "2"]
    await _lapse(desk, f"zoe:{alone.id}")
    await desk.reap()
    assert await _company(desk, "zoe", alone.id) == "0"


async def test_worker_that_lived_on_after_a_lapse_holds_what_it_claims_then_alone(
    desk: Desk,
) -> None:
    first = await desk.submit()
    await desk.claim_one(worker="alive")
    await _lapse(desk, f"ann:{first.id}")
    await desk.reap()
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "lapsed", "alive 1\n")
    second = await desk.submit("bob")
    await desk.claim_one(worker="w")
    await desk.claim_one(worker="alive")
    await _lapse(desk, f"bob:{second.id}")
    await desk.reap()
    assert await _company(desk, "bob", second.id) == "0"


async def test_nothing_joins_the_only_suspect_of_a_worker_in_a_storm(desk: Desk) -> None:
    await desk.submit()
    await _die(desk, await desk.claim_one())
    one = await desk.claim_one()
    assert one.company == 1
    await desk.submit("bob")
    await _die(desk, await desk.claim_one())
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "storm", 2**50)
    assert (await _claim(desk, 9, suspects=1, company=1)).claimed == []
    assert len((await _claim(desk, 9, suspects=4, company=4)).claimed) == 1


async def _fall_alone(desk: Desk, *accounts: str) -> None:
    """Let a message of each account be the only one that a worker held when it died."""
    for account in accounts:
        await desk.submit(account)
    for one in [await desk.claim_one(worker=account) for account in accounts]:
        await _die(desk, one)


async def test_a_counted_suspect_that_completes_shows_that_workers_die_of_something_else(
    desk: Desk,
) -> None:
    """Then what waits as the only suspect of a worker does not wait in vain."""
    accounts = ("ann", "bob", "cem")
    await _fall_alone(desk, *accounts)
    one = await desk.claim_one()
    assert (await _claim(desk, 9, suspects=1, company=1)).claimed == []
    await _die(desk, one)
    [one] = (await _claim(desk, 9)).claimed
    assert await _crashes(desk, one) == "2"
    await desk.complete(one)
    others = (await _claim(desk, 9)).claimed
    assert {each.account for each in others} == set(accounts) - {one.account}
    await _die(desk, *others)
    assert {await _crashes(desk, each) for each in others} == {"0"}


async def test_a_suspect_that_nothing_was_counted_against_shows_nothing_when_it_completes(
    desk: Desk,
) -> None:
    await _fall_alone(desk, "ann", "bob", "cem")
    await desk.complete(await desk.claim_one())
    assert len((await _claim(desk, 9)).claimed) == 1


@pytest.mark.parametrize(
    ("is_own_doing", "expected"),
    [(False, [1, 2, 3, 3, 3, 3, 3, 3]), (True, [1, 2, 3, 4, 5, 6, 7, 8])],
)
async def test_of_deaths_that_count_against_nobody_two_count_as_calls(
    desk: Desk, is_own_doing: bool, expected: list[int]
) -> None:
    """A message whose neighbours kill its workers must not be left without a call."""
    await desk.submit()
    await desk.release(await desk.claim_one(), calls=1)
    # In a storm no death counts against what it ran.
    ends = 1 if is_own_doing else 2**50
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "storm", ends)
    counted = []
    for attempt in range(2, 10):
        one = await desk.claim_one(worker=f"w{attempt}", lease_ms=0)
        counted.append(one.calls)
        await desk.append(one, 2, "Half")
        await desk.reap(crashes_max=99)
    assert counted == expected


def _elsewhere(count: int = 9, *, wire: int = 1, room: int = 0) -> ClaimAsk:
    """Return the claim of a worker for which the provider of model `one` has so much room."""
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
        look_again_ms=LONG_MS,
    )


async def test_suspects_without_room_are_parked_and_hide_no_others(desk: Desk) -> None:
    for number in range(40):
        await desk.submit(f"a{number}", model="one")
    wanted = {(await desk.submit(f"b{number}", model="two")).id for number in range(3)}
    await _die(desk, *await desk.claim(99))
    batch = await functions.claim(desk.redis, desk.root, _elsewhere())
    assert {one.id for one in batch.claimed} == wanted
    assert ("interactive", "p1") in (await desk.reap(closed=["p1"])).lines
    # Their company is kept: all of it runs again as soon as there is room.
    taken = await functions.claim(desk.redis, desk.root, _elsewhere(99, room=99))
    assert [one.company for one in taken.claimed] == [43] * 40
    assert {one.resource for one in taken.claimed} == {"p1"}
    assert (await desk.reap()).lines == frozenset()


async def test_a_parked_suspect_stays_parked_where_it_may_not_run(desk: Desk) -> None:
    for name in ("ann", "ann", "bob"):
        await desk.submit(name, model="one")
    for _ in range(3):
        held = await desk.claim(9)
        await _die(desk, *held)
    fresh = await desk.submit("ann", model="one")
    await functions.claim(desk.redis, desk.root, _elsewhere())
    before = await desk.redis.call("ZRANGE", keys.DEFERRED(desk.root), 0, -1, "WITHSCORES")
    busy = msgspec.structs.replace(_elsewhere(room=9), suspects=1, company=1)
    batch = await functions.claim(desk.redis, desk.root, busy)
    assert [one.id for one in batch.claimed] == [fresh.id]
    assert await desk.redis.call("EXISTS", keys.SUSPECTS(desk.root)) == 0
    after = await desk.redis.call("ZRANGE", keys.DEFERRED(desk.root), 0, -1, "WITHSCORES")
    assert [one for one in before if f"ann:{fresh.id}".encode() not in one] == [
        one for one in after if f"ann:{fresh.id}".encode() not in one
    ]
    free = (await functions.claim(desk.redis, desk.root, _elsewhere(room=9))).claimed
    assert [one.company for one in free] == [1]


async def test_suspects_of_an_account_at_its_most_hide_no_others(desk: Desk) -> None:
    for _ in range(40):
        await desk.submit("ann")
    other = await desk.submit("bob")
    await _die(desk, *await desk.claim(99))
    await desk.redis.call("HSET", keys.BOOKS(desk.root, "ann"), "running_most", 0)
    assert [one.id for one in await desk.claim(9)] == [other.id]


async def test_suspects_for_a_newer_worker_hide_no_others(desk: Desk) -> None:
    for number in range(99):
        await desk.submit(f"a{number}", wire=2)
    other = await desk.submit("bob")
    await _die(desk, *await desk.claim(200, wire=2))
    taken: list[Claimed] = []
    while not taken:
        taken = await desk.claim(9)
    assert [one.id for one in taken] == [other.id]
