"""`claim`, `renew_leases` and `release`: in which order turns are leased, and how they go back."""

import asyncio
import json
from collections import Counter
from typing import Final

from shared.redis import functions, keys
from shared.redis.functions import Claimed
from shared.wire import submission
from shared.wire.message import decode_user
from shared.wire.submission import LANE_WAKEUP_WIRE, LANES, WIRE, WIRE_WAKEUP, Lane
from tests.support.redis_functions import KEEP, RedisFunctions, Ticket
from tests.support.waiting import until

LEASE_MS = 30_000
# How many of its own claims an idle account starts before the lane's clock.
_AHEAD: Final = 8


async def test_claim_returns_all_that_a_worker_needs(queue: RedisFunctions) -> None:
    await queue.grant(50)
    ticket = await queue.submit(content="Hello", hold=50)
    claimed = await queue.claim_one()
    assert (claimed.account, claimed.id, claimed.attempt, claimed.turn, claimed.hold) == (
        "ann",
        ticket.id,
        1,
        1,
        50,
    )
    assert claimed.root == queue.root
    assert claimed.deadline_ms - claimed.accepted_ms == 60_000
    assert claimed.claimed_ms >= claimed.accepted_ms
    assert submission.decode(claimed.submission).session == ticket.session
    assert decode_user(claimed.user_message).content == "Hello"
    assert await queue.stage(ticket) == "routing"
    assert await queue.claim() == []


async def test_one_generation_is_claimed_by_one_worker_only(queue: RedisFunctions) -> None:
    tickets = [await queue.submit() for _ in range(30)]
    taken = await asyncio.gather(*(queue.claim(3, worker=f"w{n}") for n in range(20)))
    claimed = [one.id for batch in taken for one in batch]
    assert sorted(claimed) == sorted(ticket.id for ticket in tickets)


async def test_oldest_of_an_account_comes_first(queue: RedisFunctions) -> None:
    tickets = [await queue.submit() for _ in range(5)]
    assert [one.id for one in await queue.claim(5)] == [ticket.id for ticket in tickets]


async def test_the_system_prompt_comes_with_every_turn(queue: RedisFunctions) -> None:
    first = await queue.submit(system_prompt="Be brief.")
    await queue.complete(await queue.claim_one())
    await queue.submit("ann", first.session)
    assert (await queue.claim_one()).system_prompt == "Be brief."
    await queue.submit()
    assert (await queue.claim_one()).system_prompt is None


async def test_turn_of_a_companion_waits_for_a_worker_that_knows_companions(
    queue: RedisFunctions,
) -> None:
    own = await queue.submit("ann", companion="work")
    plain = await queue.submit("bob")
    assert [one.id for one in await queue.claim(9, wire=1)] == [plain.id]
    [claimed] = await queue.claim(9, wire=2)
    assert (claimed.id, claimed.companion) == (own.id, "work")
    await queue.complete(claimed)
    # The session's companion counts like the turn's own; that of one turn does not stay.
    following = await queue.submit("ann", own.session)
    other = await queue.submit("ann", own.session, companion="devops")
    for expected in (following, other):
        assert await queue.claim(9, wire=1) == []
        [claimed] = await queue.claim(9, wire=2)
        assert (claimed.id, claimed.companion) == (expected.id, "work")
        await queue.complete(claimed)
    third = await queue.submit("bob", plain.session, companion="work")
    assert await queue.claim(9, wire=1) == []
    assert await queue.find("bob", third.id) is not None


async def test_turn_that_a_worker_cannot_read_waits_for_one_that_can(queue: RedisFunctions) -> None:
    newer = await queue.submit("ann", wire=2)
    behind = await queue.submit("ann", wire=1)
    others = [
        await queue.submit("bob"),
        await queue.submit("cid", wire=3),
        await queue.submit("dan"),
    ]
    readable = [others[0].id, others[2].id]
    assert [one.id for one in await queue.claim(10, wire=1)] == readable
    assert await queue.claim(10, wire=1) == []
    assert [one.id for one in await queue.claim(10, wire=2)] == [newer.id, behind.id]
    assert [one.id for one in await queue.claim(10, wire=3)] == [others[1].id]


async def test_many_accounts_that_cannot_be_read_hide_no_other(queue: RedisFunctions) -> None:
    for number in range(40):
        await queue.submit(f"a{number}", wire=2)
    ours = await queue.submit("zoe")
    assert [one.id for one in await queue.claim(10, wire=1)] == [ours.id]
    assert len(await queue.claim(100, wire=2)) == 40


async def test_claim_of_a_later_attempt_drops_the_text_so_far(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.append(await queue.claim_one(), 1, "Two")
    await queue.redis.call("ZADD", keys.LEASES(queue.root), "XX", 1, f"ann:{ticket.id}")
    await queue.reap()
    assert (await queue.status(ticket)).body == b"Two"
    await queue.claim_one()
    assert (await queue.status(ticket)).body is None
    assert (await queue.events(ticket))[-1] == ("2-1", '{"type":"reset","keep":0}')


async def test_interactive_lane_goes_before_batch(queue: RedisFunctions) -> None:
    batch = await queue.submit(lane="batch")
    interactive = await queue.submit()
    assert [one.id for one in await queue.claim(1)] == [interactive.id]
    assert [one.id for one in await queue.claim(5)] == [batch.id]
    assert await queue.stage(batch) == "routing"
    await queue.submit(lane="batch")
    await queue.submit("bob", lane="batch")
    person = await queue.submit("bob")
    assert (await queue.claim_one()).id == person.id


async def test_accounts_share_a_lane_whatever_their_backlog(queue: RedisFunctions) -> None:
    for _ in range(40):
        await queue.submit("hog")
    await queue.claim(15)
    for _ in range(20):
        await queue.submit("late")
    # An idle account starts ahead of the lane's clock, so the length of the queue does not matter.
    served = [one.account for one in await queue.claim(20)]
    assert served[:_AHEAD] == ["late"] * _AHEAD
    assert abs(Counter(served[_AHEAD:])["hog"] - (20 - _AHEAD) / 2) <= 1


async def test_coming_and_going_earns_no_more_than_a_share(queue: RedisFunctions) -> None:
    for _ in range(120):
        await queue.submit("steady")
    await queue.claim(30)
    served: Counter[str] = Counter()
    for _ in range(80):
        # One at a time, so that the account leaves the lane after each and enters it again.
        if not await queue.redis.call("EXISTS", keys.READY(queue.root, "visitor", "interactive")):
            await queue.submit("visitor")
        served[(await queue.claim_one()).account] += 1
    assert abs(served["visitor"] - served["steady"] - _AHEAD) <= 2


async def test_account_that_enters_ahead_of_the_clock_does_not_set_it_back(
    queue: RedisFunctions,
) -> None:
    """An account that entered ahead of the clock does not set it back for the next one."""
    for _ in range(60):
        await queue.submit("hog")
    await queue.claim(20)
    for name in ("first", "second", "third"):
        for _ in range(12):
            await queue.submit(name)
        served = Counter(one.account for one in await queue.claim(_AHEAD))
        assert served == {name: _AHEAD}
    joined = await queue.redis.call("HGET", keys.CLOCKS(queue.root), "interactive")
    assert int(joined) >= 19_000


async def test_renewal_keeps_a_lease_and_returns_lost_ones(queue: RedisFunctions) -> None:
    await queue.submit()
    lost = await queue.claim_one(lease_ms=0)
    assert (await queue.reap()).done == [("ann", lost.id, "crashed")]
    again = await queue.claim_one(lease_ms=LEASE_MS)
    assert again.attempt == 2
    [stop] = await queue.beat(lost, again)
    assert (stop.id, stop.attempt, stop.why) == (lost.id, 1, "lost")
    ends = await queue.redis.call("ZSCORE", keys.LEASES(queue.root), f"ann:{again.id}")
    assert float(ends) > again.claimed_ms + LEASE_MS


async def test_release_puts_a_turn_back_in_front(queue: RedisFunctions) -> None:
    tickets = [await queue.submit() for _ in range(3)]
    first = await queue.claim_one()
    assert await queue.release(first) == "released"
    assert await queue.stage(tickets[0]) == "queued"
    again = await queue.claim_one()
    assert (again.id, again.attempt) == (first.id, 2)
    assert await queue.release(first) == "refused"


async def test_deferred_work_waits_for_its_time(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    assert await queue.release(await queue.claim_one(), delay_ms=60_000) == "released"
    assert await queue.stage(ticket) == "retrying"
    await queue.reap()
    assert await queue.claim() == []
    where = keys.DEFERRED(queue.root)
    await queue.redis.call("ZADD", where, "XX", 1, f"ann:{ticket.id}")
    await queue.reap()
    again = await queue.claim_one()
    assert (again.id, again.attempt, again.retries) == (ticket.id, 2, 1)


async def test_deferral_is_the_last_event_of_the_attempt(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    first = await queue.claim_one()
    await queue.append(first, 1, "Hm")
    assert await queue.release(first, delay_ms=1) == "released"
    # A repeated call, and anything else that the attempt appends, come too late.
    assert await queue.release(first, delay_ms=1) == "refused"
    assert await queue.append(first, 2, "late") == "refused"
    assert (await queue.status(ticket)).record["seq"] == "2"

    async def back() -> list[Claimed]:
        await queue.reap()
        return await queue.claim()

    [again] = await until(back)
    await queue.release(again, delay_ms=60_000)
    assert [(at, json.loads(event)["type"]) for at, event in await queue.events(ticket)] == [
        ("1-1", "delta"),
        ("1-2", "stage"),
        ("2-1", "reset"),
        ("2-2", "stage"),
    ]
    stages = [event for _, event in await queue.events(ticket) if "stage" in event]
    assert stages == ['{"type":"stage","stage":"retrying"}'] * 2


async def test_short_deferral_comes_back_by_the_clock_of_redis(queue: RedisFunctions) -> None:
    await queue.submit()
    await queue.release(await queue.claim_one(), delay_ms=5)

    async def back() -> list[Claimed]:
        await queue.reap()
        return await queue.claim()

    [again] = await until(back)
    assert again.attempt == 2


async def test_draining_costs_no_crash(queue: RedisFunctions) -> None:
    await queue.submit()
    for _ in range(5):
        assert await queue.release(await queue.claim_one()) == "released"
    lapsed = await queue.claim_one(lease_ms=0)
    assert (await queue.reap(crashes_max=2)).done == [("ann", lapsed.id, "crashed")]


async def test_turns_of_a_session_run_one_at_a_time_and_in_order(queue: RedisFunctions) -> None:
    first = await queue.submit()
    rest = [await queue.submit("ann", first.session) for _ in range(3)]
    order = []
    claimed: list[Claimed] = await queue.claim(10)
    while claimed:
        assert len(claimed) == 1
        order.append(claimed[0].id)
        await queue.complete(claimed[0])
        claimed = await queue.claim(10)
    assert order == [first.id, *(ticket.id for ticket in rest)]


async def test_claim_of_nothing_is_an_empty_list(queue: RedisFunctions) -> None:
    assert await queue.claim(100) == []


async def test_expired_in_the_queue_is_ended_not_claimed(queue: RedisFunctions) -> None:
    late = await queue.submit(deadline_ms=0)
    following = await queue.submit("ann", late.session)
    assert [one.id for one in await queue.claim(1)] == [following.id]
    assert await queue.stage(late) == "failed"


async def test_many_turns_for_a_newer_worker_do_not_block_the_others(
    queue: RedisFunctions,
) -> None:
    newer = [await queue.submit(f"new-{number}", wire=2) for number in range(64)]
    plain = await queue.submit("ann")
    assert [one.id for one in await queue.claim(9, wire=1)] == [plain.id]
    assert await queue.claim(9, wire=1) == []
    claimed = [one.id for _ in range(8) for one in await queue.claim(8, wire=2)]
    assert sorted(claimed) == sorted(one.id for one in newer)


async def test_expired_turns_are_ended_in_bounded_calls_and_take_no_room(
    queue: RedisFunctions,
) -> None:
    for _ in range(150):
        await queue.submit(lane="batch", deadline_ms=0)
    good = await queue.submit(lane="batch")
    ask = functions.ClaimAsk(
        claim=1, worker="w", wire=1, count=1, batch=1, lease_ms=LEASE_MS, keep=KEEP
    )
    left = []
    while True:
        batch = await functions.claim(queue.redis, queue.root, ask)
        left.append(int(await queue.redis.call("ZCARD", keys.DEADLINES(queue.root))))
        if batch.claimed:
            break
        assert batch.is_more
    assert [one.id for one in batch.claimed] == [good.id]
    assert left == [87, 23, 1]


async def _rings(queue: RedisFunctions, lane: Lane = "interactive") -> int:
    return int(await queue.redis.call("LLEN", keys.WAKEUP(queue.root, lane)))


async def test_each_ready_turn_pushes_one_wakeup(queue: RedisFunctions) -> None:
    first = await queue.submit()
    await queue.submit("ann", first.session)
    assert await _rings(queue) == 1
    await queue.submit("bob")
    assert await _rings(queue) == 2


async def test_claim_that_leaves_nothing_ready_deletes_the_wakeups(queue: RedisFunctions) -> None:
    for _ in range(3):
        await queue.submit()
    await queue.claim(2)
    assert await _rings(queue) == 3
    await queue.claim(1)
    assert await _rings(queue) == 0


async def test_claim_of_nothing_deletes_the_wakeups_of_every_wire_that_it_reads(
    queue: RedisFunctions,
) -> None:
    newer = [
        keys.WAKEUP_FOR(queue.root, lane, f"{WIRE_WAKEUP}{wire}")
        for lane in LANES
        for wire in range(LANE_WAKEUP_WIRE + 1, WIRE + 2)
    ]
    lists = [*(keys.WAKEUP(queue.root, lane) for lane in LANES), *newer]
    for name in lists:
        await queue.redis.call("LPUSH", name, "1")
    assert await queue.claim(wire=WIRE) == []
    unreadable = [name for name in newer if name.endswith(str(WIRE + 1))]
    assert [name for name in lists if await queue.redis.call("EXISTS", name)] == unreadable


async def test_newer_submissions_keep_their_wakeups_until_a_worker_can_read_them(
    queue: RedisFunctions,
) -> None:
    await queue.submit(wire=2)
    assert await queue.claim(wire=1) == []
    assert await _rings(queue) == 1
    assert len(await queue.claim(wire=2)) == 1
    assert await _rings(queue) == 0


async def test_every_way_to_become_ready_pushes_a_wakeup(queue: RedisFunctions) -> None:
    first = await queue.submit()
    for _ in range(2):
        await queue.submit("ann", first.session)
    head = await queue.claim_one()
    await queue.complete(head)
    assert await _rings(queue) == 1
    second = await queue.claim_one()
    await queue.release(second)
    assert await _rings(queue) == 1
    await queue.claim_one(lease_ms=0)
    await queue.reap()
    assert await _rings(queue) == 1
    again = await queue.claim_one()
    assert again.id == second.id
    await queue.release(again, delay_ms=60_000)
    assert await _rings(queue) == 0
    await queue.redis.call("ZADD", keys.DEFERRED(queue.root), "XX", 1, f"ann:{second.id}")
    await queue.reap()
    assert await _rings(queue) == 1
    await queue.cancel(Ticket("ann", first.session, second.id))
    assert await _rings(queue) == 2


async def test_list_of_wakeups_without_workers_stays_short(queue: RedisFunctions) -> None:
    for _ in range(160):
        await queue.submit()
    assert 128 <= await _rings(queue) < 144


async def test_claim_returns_whether_more_may_be_ready(queue: RedisFunctions) -> None:
    ask = functions.ClaimAsk(
        claim=1, worker="w", wire=1, count=2, batch=2, lease_ms=60_000, keep=KEEP
    )
    for _ in range(5):
        await queue.submit()
    replies = [await functions.claim(queue.redis, queue.root, ask) for _ in range(3)]
    assert [(len(batch.claimed), batch.is_more) for batch in replies] == [
        (2, True),
        (2, True),
        (1, False),
    ]


async def test_stream_keeps_the_events_of_the_last_attempts(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    for _ in range(70):
        await queue.release(await queue.claim_one())
    numbers = [number for number, _ in await queue.events(ticket)]
    assert numbers == [f"{attempt}-1" for attempt in range(7, 71)]
    await queue.complete(await queue.claim_one())
    assert (await queue.status(ticket)).record["last"] == "71-3"
