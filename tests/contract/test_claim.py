"""`claim`, `beat` and `release`: who holds what, in which order, and how it is handed back."""

import asyncio
import json
from collections import Counter
from typing import Final

from shared.redis import functions, keys
from shared.redis.functions import Claimed
from shared.wire import submission
from shared.wire.message import decode_user
from shared.wire.submission import Lane
from tests.support.desk import KEEP, Desk, Ticket
from tests.support.waiting import until

LEASE_MS = 30_000
# How many claims an account has at once that asked for nothing of late.
_AHEAD: Final = 8


async def test_claim_hands_over_all_that_a_worker_needs(desk: Desk) -> None:
    await desk.grant(50)
    ticket = await desk.submit(content="Hello", hold=50)
    claimed = await desk.claim_one()
    assert (claimed.account, claimed.id, claimed.attempt, claimed.turn, claimed.hold) == (
        "ann",
        ticket.id,
        1,
        1,
        50,
    )
    assert claimed.root == desk.root
    assert claimed.deadline_ms - claimed.accepted_ms == 60_000
    assert claimed.claimed_ms >= claimed.accepted_ms
    assert submission.decode(claimed.submission).session == ticket.session
    assert decode_user(claimed.user_message).content == "Hello"
    assert await desk.stage(ticket) == "routing"
    assert await desk.claim() == []


async def test_one_generation_is_claimed_by_one_worker_only(desk: Desk) -> None:
    tickets = [await desk.submit() for _ in range(30)]
    taken = await asyncio.gather(*(desk.claim(3, worker=f"w{n}") for n in range(20)))
    claimed = [one.id for batch in taken for one in batch]
    assert sorted(claimed) == sorted(ticket.id for ticket in tickets)


async def test_oldest_of_an_account_comes_first(desk: Desk) -> None:
    tickets = [await desk.submit() for _ in range(5)]
    assert [one.id for one in await desk.claim(5)] == [ticket.id for ticket in tickets]


async def test_the_system_prompt_comes_with_every_turn(desk: Desk) -> None:
    first = await desk.submit(system_prompt="Be brief.")
    await desk.complete(await desk.claim_one())
    await desk.submit("ann", first.session)
    assert (await desk.claim_one()).system_prompt == "Be brief."
    await desk.submit()
    assert (await desk.claim_one()).system_prompt is None


async def test_a_turn_of_a_companion_waits_for_a_worker_that_knows_what_one_is(desk: Desk) -> None:
    own = await desk.submit("ann", companion="work")
    plain = await desk.submit("bob")
    assert [one.id for one in await desk.claim(9, wire=1)] == [plain.id]
    [claimed] = await desk.claim(9, wire=2)
    assert (claimed.id, claimed.companion) == (own.id, "work")
    await desk.complete(claimed)
    # The session's companion counts as the turn's own, and another's does not stay.
    following = await desk.submit("ann", own.session)
    other = await desk.submit("ann", own.session, companion="devops")
    for expected in (following, other):
        assert await desk.claim(9, wire=1) == []
        [claimed] = await desk.claim(9, wire=2)
        assert (claimed.id, claimed.companion) == (expected.id, "work")
        await desk.complete(claimed)
    third = await desk.submit("bob", plain.session, companion="work")
    assert await desk.claim(9, wire=1) == []
    assert await desk.find("bob", third.id) is not None


async def test_what_a_worker_cannot_read_waits_for_one_that_can(desk: Desk) -> None:
    newer = await desk.submit("ann", wire=2)
    behind = await desk.submit("ann", wire=1)
    others = [await desk.submit("bob"), await desk.submit("cid", wire=3), await desk.submit("dan")]
    readable = [others[0].id, others[2].id]
    assert [one.id for one in await desk.claim(10, wire=1)] == readable
    assert await desk.claim(10, wire=1) == []
    assert [one.id for one in await desk.claim(10, wire=2)] == [newer.id, behind.id]
    assert [one.id for one in await desk.claim(10, wire=3)] == [others[1].id]


async def test_many_accounts_that_cannot_be_read_hide_no_other(desk: Desk) -> None:
    for number in range(40):
        await desk.submit(f"a{number}", wire=2)
    ours = await desk.submit("zoe")
    assert [one.id for one in await desk.claim(10, wire=1)] == [ours.id]
    assert len(await desk.claim(100, wire=2)) == 40


async def test_later_attempt_drops_what_was_told_with_its_claim(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.append(await desk.claim_one(), 1, "Two")
    await desk.redis.call("ZADD", keys.LEASES(desk.root), "XX", 1, f"ann:{ticket.id}")
    await desk.reap()
    assert (await desk.status(ticket)).body == b"Two"
    await desk.claim_one()
    assert (await desk.status(ticket)).body is None
    assert (await desk.events(ticket))[-1] == ("2-1", '{"type":"reset","keep":0}')


async def test_interactive_lane_goes_before_batch(desk: Desk) -> None:
    batch = await desk.submit(lane="batch")
    interactive = await desk.submit()
    assert [one.id for one in await desk.claim(1)] == [interactive.id]
    assert [one.id for one in await desk.claim(5)] == [batch.id]
    assert await desk.stage(batch) == "routing"
    await desk.submit(lane="batch")
    await desk.submit("bob", lane="batch")
    person = await desk.submit("bob")
    assert (await desk.claim_one()).id == person.id


async def test_accounts_share_a_lane_whatever_their_backlog(desk: Desk) -> None:
    for _ in range(40):
        await desk.submit("hog")
    await desk.claim(15)
    for _ in range(20):
        await desk.submit("late")
    # Who asked for nothing until now is let in before the line; then its length counts for nothing.
    served = [one.account for one in await desk.claim(20)]
    assert served[:_AHEAD] == ["late"] * _AHEAD
    assert abs(Counter(served[_AHEAD:])["hog"] - (20 - _AHEAD) / 2) <= 1


async def test_coming_and_going_earns_no_more_than_a_share(desk: Desk) -> None:
    for _ in range(120):
        await desk.submit("steady")
    await desk.claim(30)
    served: Counter[str] = Counter()
    for _ in range(80):
        # One at a time: the account leaves the lane after each, and joins it again.
        if not await desk.redis.call("EXISTS", keys.READY(desk.root, "visitor", "interactive")):
            await desk.submit("visitor")
        served[(await desk.claim_one()).account] += 1
    assert abs(served["visitor"] - served["steady"] - _AHEAD) <= 2


async def test_what_is_let_in_before_the_line_takes_no_time_from_it(desk: Desk) -> None:
    """The clock does not go back with who was let in early: the next newcomer is no earlier."""
    for _ in range(60):
        await desk.submit("hog")
    await desk.claim(20)
    for name in ("first", "second", "third"):
        for _ in range(12):
            await desk.submit(name)
        served = Counter(one.account for one in await desk.claim(_AHEAD))
        assert served == {name: _AHEAD}
    joined = await desk.redis.call("HGET", keys.CLOCKS(desk.root), "interactive")
    assert int(joined) >= 19_000


async def test_beat_keeps_a_lease_and_tells_what_is_lost(desk: Desk) -> None:
    await desk.submit()
    lost = await desk.claim_one(lease_ms=0)
    assert (await desk.reap()).done == [("ann", lost.id, "crashed")]
    again = await desk.claim_one(lease_ms=LEASE_MS)
    assert again.attempt == 2
    [stop] = await desk.beat(lost, again)
    assert (stop.id, stop.attempt, stop.why) == (lost.id, 1, "lost")
    ends = await desk.redis.call("ZSCORE", keys.LEASES(desk.root), f"ann:{again.id}")
    assert float(ends) > again.claimed_ms + LEASE_MS


async def test_release_puts_work_back_in_front(desk: Desk) -> None:
    tickets = [await desk.submit() for _ in range(3)]
    first = await desk.claim_one()
    assert await desk.release(first) == "released"
    assert await desk.stage(tickets[0]) == "queued"
    again = await desk.claim_one()
    assert (again.id, again.attempt) == (first.id, 2)
    assert await desk.release(first) == "refused"


async def test_deferred_work_waits_for_its_time(desk: Desk) -> None:
    ticket = await desk.submit()
    assert await desk.release(await desk.claim_one(), delay_ms=60_000) == "released"
    assert await desk.stage(ticket) == "retrying"
    await desk.reap()
    assert await desk.claim() == []
    where = keys.DEFERRED(desk.root)
    await desk.redis.call("ZADD", where, "XX", 1, f"ann:{ticket.id}")
    await desk.reap()
    again = await desk.claim_one()
    assert (again.id, again.attempt, again.retries) == (ticket.id, 2, 1)


async def test_deferral_is_told_as_the_attempts_last_event(desk: Desk) -> None:
    ticket = await desk.submit()
    first = await desk.claim_one()
    await desk.append(first, 1, "Hm")
    assert await desk.release(first, delay_ms=1) == "released"
    # A repetition, and whatever the attempt still wanted to say, come too late.
    assert await desk.release(first, delay_ms=1) == "refused"
    assert await desk.append(first, 2, "late") == "refused"
    assert (await desk.status(ticket)).record["seq"] == "2"

    async def back() -> list[Claimed]:
        await desk.reap()
        return await desk.claim()

    [again] = await until(back)
    await desk.release(again, delay_ms=60_000)
    assert [(at, json.loads(event)["type"]) for at, event in await desk.events(ticket)] == [
        ("1-1", "delta"),
        ("1-2", "stage"),
        ("2-1", "reset"),
        ("2-2", "stage"),
    ]
    told = [event for _, event in await desk.events(ticket) if "stage" in event]
    assert told == ['{"type":"stage","stage":"retrying"}'] * 2


async def test_short_deferral_comes_back_by_the_clock_of_redis(desk: Desk) -> None:
    await desk.submit()
    await desk.release(await desk.claim_one(), delay_ms=5)

    async def back() -> list[Claimed]:
        await desk.reap()
        return await desk.claim()

    [again] = await until(back)
    assert again.attempt == 2


async def test_draining_costs_no_crash(desk: Desk) -> None:
    await desk.submit()
    for _ in range(5):
        assert await desk.release(await desk.claim_one()) == "released"
    lapsed = await desk.claim_one(lease_ms=0)
    assert (await desk.reap(crashes_max=2)).done == [("ann", lapsed.id, "crashed")]


async def test_turns_of_a_session_run_one_at_a_time_and_in_order(desk: Desk) -> None:
    first = await desk.submit()
    rest = [await desk.submit("ann", first.session) for _ in range(3)]
    order = []
    claimed: list[Claimed] = await desk.claim(10)
    while claimed:
        assert len(claimed) == 1
        order.append(claimed[0].id)
        await desk.complete(claimed[0])
        claimed = await desk.claim(10)
    assert order == [first.id, *(ticket.id for ticket in rest)]


async def test_claim_of_nothing_is_an_empty_list(desk: Desk) -> None:
    assert await desk.claim(100) == []


async def test_expired_in_the_queue_is_ended_not_claimed(desk: Desk) -> None:
    late = await desk.submit(deadline_ms=0)
    following = await desk.submit("ann", late.session)
    assert [one.id for one in await desk.claim(1)] == [following.id]
    assert await desk.stage(late) == "failed"


async def test_many_who_wait_for_a_newer_worker_do_not_hold_up_the_others(desk: Desk) -> None:
    newer = [await desk.submit(f"new-{number}", wire=2) for number in range(64)]
    plain = await desk.submit("ann")
    assert [one.id for one in await desk.claim(9, wire=1)] == [plain.id]
    assert await desk.claim(9, wire=1) == []
    claimed = [one.id for _ in range(8) for one in await desk.claim(8, wire=2)]
    assert sorted(claimed) == sorted(one.id for one in newer)


async def test_expired_are_ended_so_many_at_a_time_and_take_no_room(desk: Desk) -> None:
    for _ in range(150):
        await desk.submit(lane="batch", deadline_ms=0)
    good = await desk.submit(lane="batch")
    ask = functions.ClaimAsk(
        claim=1, worker="w", wire=1, count=1, batch=1, lease_ms=LEASE_MS, keep=KEEP
    )
    left = []
    while True:
        batch = await functions.claim(desk.redis, desk.root, ask)
        left.append(int(await desk.redis.call("ZCARD", keys.DEADLINES(desk.root))))
        if batch.claimed:
            break
        assert batch.is_more
    assert [one.id for one in batch.claimed] == [good.id]
    assert left == [87, 23, 1]


async def _rings(desk: Desk, lane: Lane = "interactive") -> int:
    return int(await desk.redis.call("LLEN", keys.BELL(desk.root, lane)))


async def test_bell_rings_once_for_each_that_becomes_ready(desk: Desk) -> None:
    first = await desk.submit()
    await desk.submit("ann", first.session)
    assert await _rings(desk) == 1
    await desk.submit("bob")
    assert await _rings(desk) == 2


async def test_claim_that_leaves_nothing_ready_silences_the_bell(desk: Desk) -> None:
    for _ in range(3):
        await desk.submit()
    await desk.claim(2)
    assert await _rings(desk) == 3
    await desk.claim(1)
    assert await _rings(desk) == 0


async def test_bell_is_rung_for_newer_submissions_until_who_can_read_them_comes(
    desk: Desk,
) -> None:
    await desk.submit(wire=2)
    assert await desk.claim(wire=1) == []
    assert await _rings(desk) == 1
    assert len(await desk.claim(wire=2)) == 1
    assert await _rings(desk) == 0


async def test_every_way_to_become_ready_rings(desk: Desk) -> None:
    first = await desk.submit()
    for _ in range(2):
        await desk.submit("ann", first.session)
    head = await desk.claim_one()
    await desk.complete(head)
    assert await _rings(desk) == 1
    second = await desk.claim_one()
    await desk.release(second)
    assert await _rings(desk) == 1
    await desk.claim_one(lease_ms=0)
    await desk.reap()
    assert await _rings(desk) == 1
    again = await desk.claim_one()
    assert again.id == second.id
    await desk.release(again, delay_ms=60_000)
    assert await _rings(desk) == 0
    await desk.redis.call("ZADD", keys.DEFERRED(desk.root), "XX", 1, f"ann:{second.id}")
    await desk.reap()
    assert await _rings(desk) == 1
    await desk.cancel(Ticket("ann", first.session, second.id))
    assert await _rings(desk) == 2


async def test_a_bell_that_nobody_hears_stays_short(desk: Desk) -> None:
    for _ in range(160):
        await desk.submit()
    assert 128 <= await _rings(desk) < 144


async def test_claim_tells_whether_to_look_again(desk: Desk) -> None:
    ask = functions.ClaimAsk(
        claim=1, worker="w", wire=1, count=2, batch=2, lease_ms=60_000, keep=KEEP
    )
    for _ in range(5):
        await desk.submit()
    looks = [await functions.claim(desk.redis, desk.root, ask) for _ in range(3)]
    assert [(len(batch.claimed), batch.is_more) for batch in looks] == [
        (2, True),
        (2, True),
        (1, False),
    ]


async def test_what_is_tried_for_ever_is_told_of_its_last_attempts(desk: Desk) -> None:
    ticket = await desk.submit()
    for _ in range(70):
        await desk.release(await desk.claim_one())
    numbers = [number for number, _ in await desk.events(ticket)]
    assert numbers == [f"{attempt}-1" for attempt in range(7, 71)]
    await desk.complete(await desk.claim_one())
    assert (await desk.status(ticket)).record["last"] == "71-3"
