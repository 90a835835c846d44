"""`cancel`, `reap` and `delete_session`: the ends that no worker reports, and what they leave."""

from shared.errors import CANCELLED, CRASHED, EXPIRED
from shared.redis import keys
from shared.redis.client import Redis
from shared.redis.functions import AlreadyEnded, Cancelled, Reaped
from shared.settings import RedisSettings
from shared.wire.message import AssistantMessage, decode_assistant
from tests.support.desk import CHANNELS, LONG_MS, Desk, Ticket
from tests.support.waiting import until


async def _answer(desk: Desk, ticket: Ticket) -> AssistantMessage:
    look = await desk.status(ticket)
    assert look.body is not None
    return decode_assistant(look.body)


async def test_cancel_of_what_waits_ends_it_and_gives_the_hold_back(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=40)
    assert await desk.cancel(ticket) == Cancelled(40)
    assert await desk.cancel(ticket) == AlreadyEnded("cancelled")
    assert await desk.claim() == []
    assert (await desk.books()).balance == 100
    answer = await _answer(desk, ticket)
    assert (answer.status, answer.content, answer.failure) == ("cancelled", "", CANCELLED)
    assert await desk.events(ticket) == [("1-1", '{"type":"cancelled"}')]


async def test_cancel_of_what_runs_asks_the_worker(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=40)
    claimed = await desk.claim_one(worker="w7")
    await desk.append(claimed, 1, "Half an")
    assert await desk.cancel(ticket) == Cancelled(None)
    assert await desk.append(claimed, 2, " answer") == "cancel"
    [stop] = await desk.beat(claimed)
    assert stop.why == "cancel"
    settled = await desk.settle(claimed, seq=3, stage="cancelled", cost=5, text="Half an answer")
    assert settled is not None
    assert settled.captured == 5
    assert await desk.stage(ticket) == "cancelled"


async def test_cancel_sent_again_for_a_lost_reply_is_answered_as_the_first(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=40)
    for _ in range(2):
        assert await desk.cancel(ticket, "one") == Cancelled(40)
    assert await desk.cancel(ticket, "two") == AlreadyEnded("cancelled")
    assert (await desk.books()).balance == 100


async def test_cancel_of_what_ran_sent_again_is_pending_as_the_first(desk: Desk) -> None:
    ticket = await desk.submit()
    claimed = await desk.claim_one()
    assert await desk.cancel(ticket, "one") == Cancelled(None)
    await desk.settle(claimed, seq=1, stage="cancelled", cost=0, text="")
    assert await desk.cancel(ticket, "one") == Cancelled(None)
    assert await desk.cancel(ticket, "two") == AlreadyEnded("cancelled")


async def test_cancel_of_a_waiting_turn_leaves_the_others_in_order(desk: Desk) -> None:
    first = await desk.submit()
    second, third = [await desk.submit("ann", first.session) for _ in range(2)]
    assert await desk.cancel(second) == Cancelled(0)
    await desk.complete(await desk.claim_one())
    assert (await desk.claim_one()).id == third.id


async def test_cancel_of_the_head_moves_the_next_turn_up(desk: Desk) -> None:
    first = await desk.submit()
    second = await desk.submit("ann", first.session)
    assert await desk.cancel(first) == Cancelled(0)
    assert (await desk.claim_one()).id == second.id


async def test_cancel_of_deferred_work_ends_it(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.release(await desk.claim_one(), delay_ms=60_000)
    assert await desk.cancel(ticket) == Cancelled(0)
    assert await desk.stage(ticket) == "cancelled"


async def test_somebody_elses_generation_is_unknown(desk: Desk) -> None:
    ticket = await desk.submit()
    assert await desk.cancel(Ticket("bob", ticket.session, ticket.id)) is None
    assert await desk.find("bob", ticket.id) is None
    assert not await desk.delete_session("bob", ticket.session)
    assert not await desk.rename_session("bob", ticket.session, "Mine")
    assert await desk.stage(ticket) == "queued"


async def test_worker_that_died_is_replaced(desk: Desk) -> None:
    ticket = await desk.submit()
    dead = await desk.claim_one(lease_ms=0)
    await desk.append(dead, 1, "lost words")
    reaped = await desk.reap()
    assert reaped.done == [("ann", ticket.id, "crashed")]
    assert await desk.stage(ticket) == "retrying"
    assert (await desk.events(ticket))[-1] == ("1-2", '{"type":"stage","stage":"retrying"}')
    assert await desk.append(dead, 2, "late words") == "refused"
    assert (await desk.claim_one()).attempt == 2


async def _misses_one(desk: Desk) -> bool:
    return (await desk.reap(absent_ms=86_400_000)).missed == 1


async def test_worker_whose_listener_is_gone_is_replaced_before_its_leases_lapse(
    desk: Desk, redis_settings: RedisSettings
) -> None:
    ticket = await desk.submit()
    ear = Redis(redis_settings, on_push=lambda _: None)
    await ear.connect()
    ear.listen("SUBSCRIBE", f"{CHANNELS}worker-1")
    ear.listen("SUBSCRIBE", f"{CHANNELS}worker-2")
    await desk.claim_one(worker="worker-1")
    other = await desk.submit()
    await desk.claim_one(worker="worker-2")
    for _ in range(3):
        assert (await desk.reap(absent_ms=0)).done == []
    ear.listen("UNSUBSCRIBE", f"{CHANNELS}worker-1")
    await until(lambda: _misses_one(desk))

    async def reaped() -> Reaped | None:
        found = await desk.reap(absent_ms=50)
        return found if found.done else None

    expected = Reaped(
        [("ann", ticket.id, "crashed")], ["worker-1"], 0, ready=frozenset({"interactive"})
    )
    assert await until(reaped) == expected
    assert (await desk.claim_one(worker="worker-2")).attempt == 2
    assert (await desk.reap(absent_ms=50)).done == []
    assert await desk.stage(other) == "routing"
    assert await desk.redis.call("ZRANGE", keys.HOLDERS(desk.root), 0, -1) == [b"worker-2"]
    await ear.close()


async def test_worker_that_is_heard_again_in_time_is_not_missed(
    desk: Desk, redis_settings: RedisSettings
) -> None:
    await desk.submit()
    await desk.claim_one()
    assert (await desk.reap(absent_ms=1)).done == []
    ear = Redis(redis_settings, on_push=lambda _: None)
    await ear.connect()
    ear.listen("SUBSCRIBE", f"{CHANNELS}worker-1")
    assert (await desk.reap(absent_ms=10_000)).done == []
    assert await desk.redis.call("ZSCORE", keys.HOLDERS(desk.root), "worker-1") == 0
    await ear.close()


async def test_where_the_server_may_not_be_asked_nobody_is_noted_for_ever(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    desk = Desk(own_redis, own_settings)
    await own_redis.call("ACL", "SETUSER", "default", "-pubsub")
    where = keys.HOLDERS(desk.root)
    # As many as fleets of years leave behind, and more than Lua can name in one call.
    for first in range(0, 9_000, 1_000):
        names = [word for n in range(first, first + 1_000) for word in (0, f"worker-{n}")]
        await own_redis.call("ZADD", where, *names)
    await desk.submit()
    claimed = await desk.claim_one(lease_ms=0)
    assert (await desk.reap(absent_ms=0)).done == [("ann", claimed.id, "crashed")]
    assert await own_redis.call("ZCARD", where) == 0


async def test_nobody_is_missed_right_after_a_gap_in_the_reaping(desk: Desk) -> None:
    await desk.submit()
    await desk.claim_one(lease_ms=LONG_MS)
    await desk.reap(absent_ms=0)
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "reaped", 1)
    assert (await desk.reap(absent_ms=0, gap_ms=1_000)).done == []
    assert (await desk.reap(absent_ms=0)).done == []


async def test_worker_that_claims_before_its_listener_is_back_is_not_missed(desk: Desk) -> None:
    await desk.submit()
    await desk.reap(absent_ms=0)
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "reaped", 1)
    assert (await desk.reap(absent_ms=0, gap_ms=1_000)).done == []
    claimed = await desk.claim_one(lease_ms=LONG_MS)
    for _ in range(3):
        assert await desk.reap(absent_ms=0) == Reaped([], [], 0)
    await desk.redis.call("HSET", keys.CLOCKS(desk.root), "deaf", 1)
    assert (await desk.reap(absent_ms=0)).missed == 1
    assert (await desk.reap(absent_ms=0)).done == [("ann", claimed.id, "crashed")]


async def test_dead_workers_work_comes_back_in_bounded_pieces(desk: Desk) -> None:
    for _ in range(7):
        await desk.submit()
    assert len(await desk.claim(10)) == 7
    await desk.reap(absent_ms=0)
    pieces = []
    while piece := (await desk.reap(absent_ms=0, limit=3)).done:
        pieces.append(len(piece))
    assert pieces == [3, 3, 1]
    await desk.reap(absent_ms=0)
    assert await desk.redis.call("EXISTS", keys.HOLDERS(desk.root)) == 0


async def test_poison_is_buried_after_so_many_crashes_and_refunded(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=40)
    following = await desk.submit("ann", ticket.session)
    for crash in range(2):
        await desk.append(await desk.claim_one(lease_ms=0), 1, f"try {crash}")
        assert (await desk.reap(crashes_max=3)).done == [("ann", ticket.id, "crashed")]
    await desk.append(await desk.claim_one(lease_ms=0), 2, "try 2")
    reaped = await desk.reap(crashes_max=3)
    assert reaped.done == [("ann", ticket.id, "buried")]
    answer = await _answer(desk, ticket)
    assert (answer.status, answer.content, answer.failure) == ("failed", "try 2", CRASHED)
    assert (await desk.books()).balance == 100
    assert (await desk.events(ticket))[-1][0] == "4-1"
    assert (await desk.claim_one()).id == following.id


async def test_cancelled_by_request_is_not_run_again_by_a_release(desk: Desk) -> None:
    for delay_ms in (0, 60_000):
        ticket = await desk.submit()
        claimed = await desk.claim_one()
        assert await desk.cancel(ticket) == Cancelled(None)
        assert await desk.release(claimed, delay_ms=delay_ms) == "cancelled"
        assert await desk.stage(ticket) == "cancelled"
        assert await desk.release(claimed) == "refused"
    assert await desk.claim() == []


async def test_cancelled_by_request_is_not_run_again_by_a_crash(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.claim_one(lease_ms=0)
    assert await desk.cancel(ticket) == Cancelled(None)
    assert (await desk.reap()).done == [("ann", ticket.id, "cancelled")]
    assert await desk.stage(ticket) == "cancelled"


async def test_deadline_ends_what_waits_runs_or_is_deferred(desk: Desk) -> None:
    await desk.grant(100)
    running = await desk.submit("ann", hold=10)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "Half")
    deferred = await desk.submit("ann", hold=10)
    await desk.release(await desk.claim_one(), delay_ms=60_000)
    ready = await desk.submit("ann", hold=10)
    waiting = await desk.submit("ann", ready.session, hold=10)
    tickets = [running, deferred, ready, waiting]
    for ticket in tickets:
        await desk.redis.call("ZADD", keys.DEADLINES(desk.root), "XX", 1, f"ann:{ticket.id}")
    done = (await desk.reap()).done
    assert sorted(done) == sorted(("ann", ticket.id, "expired") for ticket in tickets)
    assert [(await _answer(desk, ticket)).failure for ticket in tickets] == [EXPIRED] * 4
    assert (await _answer(desk, running)).content == "Half"
    assert (await desk.books()).balance == 100
    assert await desk.append(claimed, 2, "more") == "refused"
    assert await desk.claim(10) == []


async def test_reap_does_no_more_than_its_limit(desk: Desk) -> None:
    for _ in range(5):
        await desk.submit()
    await desk.claim(5, lease_ms=0)
    assert [len((await desk.reap(limit=2)).done) for _ in range(4)] == [2, 2, 1, 0]


async def test_deleted_session_leaves_no_key(desk: Desk) -> None:
    await desk.grant(100)
    ended = await desk.submit(idempotency="one", hold=5)
    await desk.complete(await desk.claim_one(), cost=5)
    running = await desk.submit("ann", ended.session, idempotency="two", hold=5)
    claimed = await desk.claim_one()
    await desk.append(claimed, 1, "words")
    waiting = await desk.submit("ann", ended.session, hold=5)
    assert await desk.delete_session("ann", ended.session)
    assert not await desk.delete_session("ann", ended.session)
    names = await desk.redis.call("KEYS", f"{desk.root}*")
    kept = {name.decode().removeprefix(desk.root).split(":")[0] for name in names}
    assert kept == {"books", "ledger", "clocks", "holders", "submissions", "pace", "forgotten"}
    # The name is for the chore that deletes its files.
    noted = await desk.redis.call("ZRANGE", keys.FORGOTTEN(desk.root), 0, -1)
    assert noted == [f"ann:{ended.session}".encode()]
    for ticket in (ended, running, waiting):
        assert await desk.find("ann", ticket.id) is None
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (95, 0, 5)
    assert await desk.append(claimed, 2, "late") == "refused"
    assert await desk.settle(claimed, seq=2) is None


async def test_deleted_session_forgets_many_turns(desk: Desk) -> None:
    ticket = await desk.submit()
    for turn in range(40):
        if turn:
            await desk.submit("ann", ticket.session)
        await desk.complete(await desk.claim_one())
    assert len(await desk.redis.call("KEYS", f"{desk.root}turns:*")) == 3
    assert await desk.delete_session("ann", ticket.session)
    assert await desk.redis.call("KEYS", f"{desk.root}*:ann:*") == []


async def test_deleting_one_session_spares_the_next_user_of_its_idempotency_key(desk: Desk) -> None:
    old = await desk.submit(idempotency="key", idempotency_ms=60_000)
    await desk.complete(await desk.claim_one())
    # As if the first receipt had reached its age while the record of its generation was still kept.
    names = await desk.redis.call("KEYS", f"{desk.root}idempotency:*")
    await desk.redis.call("DEL", *names)
    new = await desk.submit(idempotency="key")
    assert await desk.delete_session("ann", old.session)
    assert await desk.redis.call("KEYS", f"{desk.root}idempotency:*") == names
    assert await desk.stage(new) == "queued"


async def test_renamed_session_has_its_name_and_a_deleted_one_stays_gone(desk: Desk) -> None:
    ticket = await desk.submit()
    assert await desk.rename_session("ann", ticket.session, "Größer 🎉")
    name = await desk.redis.call("HGET", keys.SESSION(desk.root, "ann", ticket.session), "name")
    assert name.decode() == "Größer 🎉"
    await desk.delete_session("ann", ticket.session)
    assert not await desk.rename_session("ann", ticket.session, "Back")
    assert await desk.redis.call("EXISTS", keys.SESSION(desk.root, "ann", ticket.session)) == 0
