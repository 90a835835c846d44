"""`cancel`, `reap` and `delete_session`: ends that no worker reports, and what they leave."""

from shared.errors import CANCELLED, CRASHED, EXPIRED
from shared.redis import keys
from shared.redis.client import Redis
from shared.redis.functions import AlreadyEnded, Cancelled, Reaped
from shared.settings import RedisSettings
from shared.wire.message import AssistantMessage, decode_assistant
from tests.support.redis_functions import CHANNELS, LONG_MS, RedisFunctions, Ticket
from tests.support.waiting import until


async def _answer(queue: RedisFunctions, ticket: Ticket) -> AssistantMessage:
    reply = await queue.status(ticket)
    assert reply.body is not None
    return decode_assistant(reply.body)


async def test_cancel_of_a_waiting_generation_ends_it_and_releases_the_hold(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40)
    assert await queue.cancel(ticket) == Cancelled(40)
    assert await queue.cancel(ticket) == AlreadyEnded("cancelled")
    assert await queue.claim() == []
    assert (await queue.credit_totals()).balance == 100
    answer = await _answer(queue, ticket)
    assert (answer.status, answer.content, answer.failure) == ("cancelled", "", CANCELLED)
    assert await queue.events(ticket) == [("1-1", '{"type":"cancelled"}')]


async def test_cancel_of_a_running_generation_asks_the_worker(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40)
    claimed = await queue.claim_one(worker="w7")
    await queue.append(claimed, 1, "Half an")
    assert await queue.cancel(ticket) == Cancelled(None)
    assert await queue.append(claimed, 2, " answer") == "cancel"
    [stop] = await queue.beat(claimed)
    assert stop.why == "cancel"
    settled = await queue.settle(claimed, seq=3, stage="cancelled", cost=5, text="Half an answer")
    assert settled is not None
    assert settled.captured == 5
    assert await queue.stage(ticket) == "cancelled"


async def test_cancel_sent_again_for_a_lost_reply_is_answered_as_the_first(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40)
    for _ in range(2):
        assert await queue.cancel(ticket, "one") == Cancelled(40)
    assert await queue.cancel(ticket, "two") == AlreadyEnded("cancelled")
    assert (await queue.credit_totals()).balance == 100


async def test_cancel_of_what_ran_sent_again_is_pending_as_the_first(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    assert await queue.cancel(ticket, "one") == Cancelled(None)
    await queue.settle(claimed, seq=1, stage="cancelled", cost=0, text="")
    assert await queue.cancel(ticket, "one") == Cancelled(None)
    assert await queue.cancel(ticket, "two") == AlreadyEnded("cancelled")


async def test_cancel_of_a_waiting_turn_leaves_the_others_in_order(queue: RedisFunctions) -> None:
    first = await queue.submit()
    second, third = [await queue.submit("ann", first.session) for _ in range(2)]
    assert await queue.cancel(second) == Cancelled(0)
    await queue.complete(await queue.claim_one())
    assert (await queue.claim_one()).id == third.id


async def test_cancel_of_the_head_moves_the_next_turn_up(queue: RedisFunctions) -> None:
    first = await queue.submit()
    second = await queue.submit("ann", first.session)
    assert await queue.cancel(first) == Cancelled(0)
    assert (await queue.claim_one()).id == second.id


async def test_cancel_of_deferred_work_ends_it(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.release(await queue.claim_one(), delay_ms=60_000)
    assert await queue.cancel(ticket) == Cancelled(0)
    assert await queue.stage(ticket) == "cancelled"


async def test_somebody_elses_generation_is_unknown(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    assert await queue.cancel(Ticket("bob", ticket.session, ticket.id)) is None
    assert await queue.find("bob", ticket.id) is None
    assert not await queue.delete_session("bob", ticket.session)
    assert not await queue.rename_session("bob", ticket.session, "Mine")
    assert await queue.stage(ticket) == "queued"


async def test_worker_that_died_is_replaced(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    dead = await queue.claim_one(lease_ms=0)
    await queue.append(dead, 1, "lost words")
    reaped = await queue.reap()
    assert reaped.done == [("ann", ticket.id, "crashed")]
    assert await queue.stage(ticket) == "retrying"
    assert (await queue.events(ticket))[-1] == ("1-2", '{"type":"stage","stage":"retrying"}')
    assert await queue.append(dead, 2, "late words") == "refused"
    assert (await queue.claim_one()).attempt == 2


async def _misses_one(queue: RedisFunctions) -> bool:
    return (await queue.reap(absent_ms=86_400_000)).missed == 1


async def test_worker_whose_listener_is_gone_is_replaced_before_its_leases_expire(
    queue: RedisFunctions, redis_settings: RedisSettings
) -> None:
    ticket = await queue.submit()
    ear = Redis(redis_settings, on_push=lambda _: None)
    await ear.connect()
    ear.listen("SUBSCRIBE", f"{CHANNELS}worker-1")
    ear.listen("SUBSCRIBE", f"{CHANNELS}worker-2")
    await queue.claim_one(worker="worker-1")
    other = await queue.submit()
    await queue.claim_one(worker="worker-2")
    for _ in range(3):
        assert (await queue.reap(absent_ms=0)).done == []
    ear.listen("UNSUBSCRIBE", f"{CHANNELS}worker-1")
    await until(lambda: _misses_one(queue))

    async def reaped() -> Reaped | None:
        found = await queue.reap(absent_ms=50)
        return found if found.done else None

    expected = Reaped(
        [("ann", ticket.id, "crashed")], ["worker-1"], 0, ready=frozenset({"interactive"})
    )
    assert await until(reaped) == expected
    assert (await queue.claim_one(worker="worker-2")).attempt == 2
    assert (await queue.reap(absent_ms=50)).done == []
    assert await queue.stage(other) == "routing"
    assert await queue.redis.call("ZRANGE", keys.CLAIMING_WORKERS(queue.root), 0, -1) == [
        b"worker-2"
    ]
    await ear.close()


async def test_worker_that_listens_again_in_time_is_not_dead(
    queue: RedisFunctions, redis_settings: RedisSettings
) -> None:
    await queue.submit()
    await queue.claim_one()
    assert (await queue.reap(absent_ms=1)).done == []
    ear = Redis(redis_settings, on_push=lambda _: None)
    await ear.connect()
    ear.listen("SUBSCRIBE", f"{CHANNELS}worker-1")
    assert (await queue.reap(absent_ms=10_000)).done == []
    assert await queue.redis.call("ZSCORE", keys.CLAIMING_WORKERS(queue.root), "worker-1") == 0
    await ear.close()


async def test_where_pubsub_is_forbidden_no_worker_is_kept_for_ever(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    queue = RedisFunctions(own_redis, own_settings)
    await own_redis.call("ACL", "SETUSER", "default", "-pubsub")
    where = keys.CLAIMING_WORKERS(queue.root)
    # As many workers as years leave behind, and more than Lua can unpack in one call.
    for first in range(0, 9_000, 1_000):
        names = [word for n in range(first, first + 1_000) for word in (0, f"worker-{n}")]
        await own_redis.call("ZADD", where, *names)
    await queue.submit()
    claimed = await queue.claim_one(lease_ms=0)
    assert (await queue.reap(absent_ms=0)).done == [("ann", claimed.id, "crashed")]
    assert await own_redis.call("ZCARD", where) == 0


async def test_no_worker_is_dead_right_after_a_gap_in_the_reaping(queue: RedisFunctions) -> None:
    await queue.submit()
    await queue.claim_one(lease_ms=LONG_MS)
    await queue.reap(absent_ms=0)
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "reaped", 1)
    assert (await queue.reap(absent_ms=0, gap_ms=1_000)).done == []
    assert (await queue.reap(absent_ms=0)).done == []


async def test_worker_that_claims_before_its_listener_is_back_is_not_dead(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    await queue.reap(absent_ms=0)
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "reaped", 1)
    assert (await queue.reap(absent_ms=0, gap_ms=1_000)).done == []
    claimed = await queue.claim_one(lease_ms=LONG_MS)
    for _ in range(3):
        assert await queue.reap(absent_ms=0) == Reaped([], [], 0)
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "deaf", 1)
    assert (await queue.reap(absent_ms=0)).missed == 1
    assert (await queue.reap(absent_ms=0)).done == [("ann", claimed.id, "crashed")]


async def test_dead_workers_work_comes_back_in_bounded_pieces(queue: RedisFunctions) -> None:
    for _ in range(7):
        await queue.submit()
    assert len(await queue.claim(10)) == 7
    await queue.reap(absent_ms=0)
    pieces = []
    while piece := (await queue.reap(absent_ms=0, limit=3)).done:
        pieces.append(len(piece))
    assert pieces == [3, 3, 1]
    await queue.reap(absent_ms=0)
    assert await queue.redis.call("EXISTS", keys.CLAIMING_WORKERS(queue.root)) == 0


async def test_poison_is_buried_after_so_many_crashes_and_refunded(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40)
    following = await queue.submit("ann", ticket.session)
    for crash in range(2):
        await queue.append(await queue.claim_one(lease_ms=0), 1, f"try {crash}")
        assert (await queue.reap(crashes_max=3)).done == [("ann", ticket.id, "crashed")]
    await queue.append(await queue.claim_one(lease_ms=0), 2, "try 2")
    reaped = await queue.reap(crashes_max=3)
    assert reaped.done == [("ann", ticket.id, "buried")]
    answer = await _answer(queue, ticket)
    assert (answer.status, answer.content, answer.failure) == ("failed", "try 2", CRASHED)
    assert (await queue.credit_totals()).balance == 100
    assert (await queue.events(ticket))[-1][0] == "4-1"
    assert (await queue.claim_one()).id == following.id


async def test_cancelled_by_request_is_not_run_again_by_a_release(queue: RedisFunctions) -> None:
    for delay_ms in (0, 60_000):
        ticket = await queue.submit()
        claimed = await queue.claim_one()
        assert await queue.cancel(ticket) == Cancelled(None)
        assert await queue.release(claimed, delay_ms=delay_ms) == "cancelled"
        assert await queue.stage(ticket) == "cancelled"
        assert await queue.release(claimed) == "refused"
    assert await queue.claim() == []


async def test_cancelled_by_request_is_not_run_again_by_a_crash(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.claim_one(lease_ms=0)
    assert await queue.cancel(ticket) == Cancelled(None)
    assert (await queue.reap()).done == [("ann", ticket.id, "cancelled")]
    assert await queue.stage(ticket) == "cancelled"


async def test_deadline_ends_waiting_running_and_deferred_generations(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    running = await queue.submit("ann", hold=10)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Half")
    deferred = await queue.submit("ann", hold=10)
    await queue.release(await queue.claim_one(), delay_ms=60_000)
    ready = await queue.submit("ann", hold=10)
    waiting = await queue.submit("ann", ready.session, hold=10)
    tickets = [running, deferred, ready, waiting]
    for ticket in tickets:
        await queue.redis.call("ZADD", keys.DEADLINES(queue.root), "XX", 1, f"ann:{ticket.id}")
    done = (await queue.reap()).done
    assert sorted(done) == sorted(("ann", ticket.id, "expired") for ticket in tickets)
    assert [(await _answer(queue, ticket)).failure for ticket in tickets] == [EXPIRED] * 4
    assert (await _answer(queue, running)).content == "Half"
    assert (await queue.credit_totals()).balance == 100
    assert await queue.append(claimed, 2, "more") == "refused"
    assert await queue.claim(10) == []


async def test_reap_does_no_more_than_its_limit(queue: RedisFunctions) -> None:
    for _ in range(5):
        await queue.submit()
    await queue.claim(5, lease_ms=0)
    assert [len((await queue.reap(limit=2)).done) for _ in range(4)] == [2, 2, 1, 0]


async def test_deleted_session_leaves_no_key(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ended = await queue.submit(idempotency="one", hold=5)
    await queue.complete(await queue.claim_one(), cost=5)
    running = await queue.submit("ann", ended.session, idempotency="two", hold=5)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "words")
    waiting = await queue.submit("ann", ended.session, hold=5)
    assert await queue.delete_session("ann", ended.session)
    assert not await queue.delete_session("ann", ended.session)
    names = await queue.redis.call("KEYS", f"{queue.root}*")
    kept = {name.decode().removeprefix(queue.root).split(":")[0] for name in names}
    assert kept == {
        *("books", "ledger", "log", "clocks", "holders", "submissions", "pace", "forgotten")
    }
    # The name is for the chore that deletes its files.
    noted = await queue.redis.call("ZRANGE", keys.FILES_TO_DELETE(queue.root), 0, -1)
    assert noted == [f"ann:{ended.session}".encode()]
    for ticket in (ended, running, waiting):
        assert await queue.find("ann", ticket.id) is None
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (95, 0, 5)
    assert await queue.append(claimed, 2, "late") == "refused"
    assert await queue.settle(claimed, seq=2) is None


async def test_deleted_session_deletes_many_turns(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    for turn in range(40):
        if turn:
            await queue.submit("ann", ticket.session)
        await queue.complete(await queue.claim_one())
    assert len(await queue.redis.call("KEYS", f"{queue.root}turns:*")) == 3
    assert await queue.delete_session("ann", ticket.session)
    assert await queue.redis.call("KEYS", f"{queue.root}*:ann:*") == []


async def test_deleting_a_session_keeps_a_later_record_of_its_idempotency_key(
    queue: RedisFunctions,
) -> None:
    old = await queue.submit(idempotency="key", idempotency_ms=60_000)
    await queue.complete(await queue.claim_one())
    # As if the first idempotency record had expired while its generation's record was still kept.
    names = await queue.redis.call("KEYS", f"{queue.root}idempotency:*")
    await queue.redis.call("DEL", *names)
    new = await queue.submit(idempotency="key")
    assert await queue.delete_session("ann", old.session)
    assert await queue.redis.call("KEYS", f"{queue.root}idempotency:*") == names
    assert await queue.stage(new) == "queued"


async def test_renamed_session_has_its_name_and_a_deleted_one_stays_gone(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit()
    assert await queue.rename_session("ann", ticket.session, "Größer 🎉")
    name = await queue.redis.call("HGET", keys.SESSION(queue.root, "ann", ticket.session), "name")
    assert name.decode() == "Größer 🎉"
    await queue.delete_session("ann", ticket.session)
    assert not await queue.rename_session("ann", ticket.session, "Back")
    assert await queue.redis.call("EXISTS", keys.SESSION(queue.root, "ann", ticket.session)) == 0
