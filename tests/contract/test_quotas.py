"""Quotas of sessions and stored bytes: exact, freed by deletion, and recounted where unknown.

After each test the stored bytes are also checked by `tests/support/redis_invariants.py`.
"""

import pytest
from structlog.testing import capture_logs

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import (
    Accepted,
    CreateSessionAsk,
    NewSession,
    RecountAsk,
    Rejected,
    RetryRefused,
)
from tests.support.redis_functions import LONG_MS, RedisFunctions, Ticket
from worker.chores.recount import count_stored, recount
from worker.outcome import INTERNAL


async def _create(
    queue: RedisFunctions, *, sessions_max: int = 1_000, stored_bytes_max: int = 1_000_000
) -> NewSession | Rejected:
    ask = CreateSessionAsk(
        account="ann",
        id=ids.new_id(),
        name="A talk",
        per_minute=1_000,
        sessions_max=sessions_max,
        stored_bytes_max=stored_bytes_max,
        metadata={"place": "küche"},
        idempotency_ms=LONG_MS,
    )
    return await functions.create_session(queue.redis, queue.root, ask)


async def _stored(queue: RedisFunctions) -> int:
    where = keys.ACCOUNT_TOTALS(queue.root, "ann")
    sums = await queue.redis.call("HMGET", where, "stored_0", "stored_1")
    return sum(int(each or 0) for each in sums)


async def _due(queue: RedisFunctions) -> list[bytes]:
    found: list[bytes] = await queue.redis.call("ZRANGE", keys.RECOUNT(queue.root), 0, -1)
    return found


async def _talk(queue: RedisFunctions, turns: int, session: str | None = None) -> Ticket:
    ticket = await queue.submit(session=session, content="x" * 100)
    await queue.complete(await queue.claim_one(), "y" * 50)
    for _ in range(turns - 1):
        await queue.submit(session=ticket.session, content="x" * 100)
        await queue.complete(await queue.claim_one(), "y" * 50)
    return ticket


async def test_sessions_have_a_quota_that_deletion_frees(queue: RedisFunctions) -> None:
    made = [await _create(queue, sessions_max=3)]
    accepted = await queue.submit("ann")
    made.append(await _create(queue, sessions_max=3))
    assert all(isinstance(each, NewSession) for each in made)
    for refused in (await _create(queue, sessions_max=3), await queue.accept(sessions_max=3)):
        assert isinstance(refused, Rejected)
        assert (refused.reason, refused.about, refused.used) == ("quota", "sessions", 3)
        assert refused.rate is not None
    # A further message of an existing session needs no further session.
    assert isinstance(await queue.accept("ann", accepted.session, sessions_max=3), Accepted)
    assert await queue.delete_session("ann", accepted.session)
    assert isinstance(await queue.accept(sessions_max=3), Accepted)


async def test_stored_bytes_have_a_quota_to_the_byte(queue: RedisFunctions) -> None:
    ticket = await queue.submit(content="x" * 1_000, name="n" * 10, system_prompt="s" * 100)
    at_first = await _stored(queue)
    assert 1_110 < at_first < 1_300
    # Ids, time and content of the next message are as long as those of the first.
    more = at_first - 110
    refused = await queue.accept(
        "ann", ticket.session, content="x" * 1_000, stored_bytes_max=at_first + more - 1
    )
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.about, refused.used) == ("quota", "stored_bytes", at_first)
    assert await _stored(queue) == at_first
    taken = await queue.accept(
        "ann", ticket.session, content="x" * 1_000, stored_bytes_max=at_first + more
    )
    assert isinstance(taken, Accepted)
    assert await _stored(queue) == at_first + more
    full = await _create(queue, stored_bytes_max=at_first + more)
    assert isinstance(full, Rejected)
    assert full.about == "stored_bytes"
    assert await queue.delete_session("ann", ticket.session)
    assert await _stored(queue) == 0
    assert isinstance(await _create(queue, stored_bytes_max=100), NewSession)


async def test_text_of_a_free_cancelled_answer_is_stored_and_counted(queue: RedisFunctions) -> None:
    session, count = (await queue.submit()).session, 0
    while True:
        answer = await queue.accept("ann", session, content="x" * 1_000, stored_bytes_max=20_000)
        if not isinstance(answer, Accepted):
            break
        count += 1
        for _ in range(2):
            ids_ = await queue.redis.call(
                "ZRANGE", keys.UNFINISHED(queue.root, "ann", "interactive"), 0, -1
            )
            for id_ in ids_:
                await queue.cancel(Ticket("ann", session, id_.decode()))
    assert isinstance(answer, Rejected)
    assert (answer.reason, answer.about) == ("quota", "stored_bytes")
    assert 10 <= count <= 17
    assert 18_000 < await _stored(queue) <= 20_000 + 200


async def test_names_and_answers_and_interrupts_are_counted(queue: RedisFunctions) -> None:
    ticket = await _talk(queue, 2)
    before = await _stored(queue)
    assert await queue.rename_session("ann", ticket.session, "A much longer name than it had")
    assert await _stored(queue) > before
    assert await queue.rename_session("ann", ticket.session, "b")
    assert await _stored(queue) == before - len("A talk") + 1
    for _ in range(3):
        await queue.submit(session=ticket.session)
    interrupted = await queue.accept("ann", ticket.session, on_conflict="interrupt")
    assert isinstance(interrupted, Accepted)


async def test_retry_of_a_dead_letter_is_counted_and_has_the_same_quota(
    queue: RedisFunctions,
) -> None:
    dead = await queue.submit(content="x" * 1_000)
    await queue.fail(await queue.claim_one(), INTERNAL)
    before = await _stored(queue)
    assert await queue.revive(dead, stored_bytes_max=before + 100) == RetryRefused("quota")
    assert await queue.revive(dead) != RetryRefused("quota")
    assert await _stored(queue) > before + 1_000


async def test_account_of_an_older_process_is_counted_by_the_chore(queue: RedisFunctions) -> None:
    tickets = [await _talk(queue, 18) for _ in range(3)]
    exact = await _stored(queue)
    credit_totals = keys.ACCOUNT_TOTALS(queue.root, "ann")
    await queue.redis.call(
        "HDEL", credit_totals, "stored_0", "stored_1", "stored_side", "counted_at"
    )
    for ticket in tickets:
        where = keys.SESSION(queue.root, "ann", ticket.session)
        await queue.redis.call("HDEL", where, "bytes", "side")
    assert await _due(queue) == []
    again = await queue.submit(session=tickets[1].session)
    assert await _due(queue) == [b"ann"]
    with capture_logs() as lines:
        assert await recount(queue.redis, queue.settings) == 1
    assert lines == []
    assert await _due(queue) == []
    assert await _stored(queue) > exact
    await queue.cancel(again)
    for ticket in tickets:
        assert await queue.delete_session("ann", ticket.session)
    assert await _stored(queue) == 0


async def test_recount_finds_what_an_older_process_stored_or_deleted(
    queue: RedisFunctions,
) -> None:
    kept, grown, gone = [await _talk(queue, 2) for _ in range(3)]
    exact = await _stored(queue)
    # It deletes a session and adds a record to another, and counts neither.
    session = keys.SESSION(queue.root, "ann", gone.session)
    lost = int(await queue.redis.call("HGET", session, "bytes"))
    await queue.redis.call("DEL", session, keys.TURNS(queue.root, "ann", gone.session, 0))
    await queue.redis.call("ZREM", keys.SESSIONS(queue.root, "ann"), gone.session)
    turns = keys.TURNS(queue.root, "ann", grown.session, 0)
    record = await queue.redis.call("HGET", turns, "1:u")
    await queue.redis.call("HSET", turns, "3:u", record)
    await queue.redis.call("HSET", keys.SESSION(queue.root, "ann", grown.session), "turns", 3)
    assert await _stored(queue) == exact
    assert (await count_stored(queue.redis, queue.root, "ann")) == (len(record), lost, False)
    assert await _stored(queue) == exact - lost + len(record)
    await queue.redis.call("ZADD", keys.RECOUNT(queue.root), 1, "ann")
    with capture_logs() as lines:
        await recount(queue.redis, queue.settings)
    assert lines == []
    assert await queue.delete_session("ann", kept.session)


async def test_sessions_of_older_processes_are_counted_by_the_next_recount(
    queue: RedisFunctions,
) -> None:
    for _ in range(2):
        ticket = await _talk(queue, 2)
        where = keys.SESSION(queue.root, "ann", ticket.session)
        weight = int(await queue.redis.call("HGET", where, "bytes"))
        sum_before = await _stored(queue) - weight
        # An older process creates a session without counting it.
        await queue.redis.call("HDEL", where, "bytes", "side")
        for side in ("0", "1"):
            name = f"stored_{side}"
            held = int(
                await queue.redis.call("HGET", keys.ACCOUNT_TOTALS(queue.root, "ann"), name) or 0
            )
            if held >= weight:
                await queue.redis.call(
                    "HINCRBY", keys.ACCOUNT_TOTALS(queue.root, "ann"), name, -weight
                )
        assert await _stored(queue) == sum_before
        assert await count_stored(queue.redis, queue.root, "ann") == (weight, 0, False)
        assert await _stored(queue) == sum_before + weight


async def test_drift_is_logged_with_its_account(queue: RedisFunctions) -> None:
    await _talk(queue, 1)
    await queue.redis.call("HINCRBY", keys.ACCOUNT_TOTALS(queue.root, "ann"), "stored_0", 77)
    await queue.redis.call("ZADD", keys.RECOUNT(queue.root), 1, "ann")
    with capture_logs() as lines:
        await recount(queue.redis, queue.settings)
    assert [(line["event"], line["account"], line["deleted_bytes"]) for line in lines] == [
        ("stored bytes were counted wrong", "ann", 77)
    ]


async def test_count_never_falls_below_zero(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.redis.call("HSET", keys.ACCOUNT_TOTALS(queue.root, "ann"), "stored_0", 3)
    assert await queue.delete_session("ann", ticket.session)
    assert await _stored(queue) == 0


async def test_rejection_by_an_old_count_schedules_a_recount(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    credit_totals = keys.ACCOUNT_TOTALS(queue.root, "ann")
    # An older process deleted so much without subtracting it.
    await queue.redis.call("HINCRBY", credit_totals, "stored_0", 5_000)
    assert isinstance(await queue.accept(stored_bytes_max=5_000), Rejected)
    assert await _due(queue) == []
    await queue.redis.call("HINCRBY", credit_totals, "counted_at", -3_600_000)
    assert isinstance(await queue.accept(stored_bytes_max=5_000), Rejected)
    assert await _due(queue) == [b"ann"]
    assert (await count_stored(queue.redis, queue.root, "ann"))[1] == 5_000
    assert isinstance(await queue.accept(stored_bytes_max=5_000), Accepted)
    await queue.cancel(ticket)


async def test_count_of_a_day_ago_is_due_again(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.redis.call(
        "HINCRBY", keys.ACCOUNT_TOTALS(queue.root, "ann"), "counted_at", -90_000_000
    )
    await queue.submit(session=ticket.session)
    assert await _due(queue) == [b"ann"]
    await recount(queue.redis, queue.settings)
    await queue.submit(session=ticket.session)
    assert await _due(queue) == []


async def test_session_too_long_for_one_call_is_measured_while_it_changes(
    queue: RedisFunctions,
) -> None:
    ticket = await _talk(queue, 3)
    other = await _talk(queue, 1)
    where = keys.SESSION(queue.root, "ann", ticket.session)
    turns = keys.TURNS(queue.root, "ann", ticket.session, 0)
    asked, answered = await queue.redis.call("HMGET", turns, "1:u", "1:a")
    # Two thousand turns of an older process.
    await queue.redis.call("HSET", where, "turns", 2_000)
    for chunk in range(1, 126):
        fields = [
            word
            for turn in range(chunk * 16, min(chunk * 16 + 16, 2_001))
            for word in (f"{turn}:u", asked, f"{turn}:a", answered)
        ]
        await queue.redis.call(
            "HSET", keys.TURNS(queue.root, "ann", ticket.session, chunk), *fields
        )
    step = await functions.recount(queue.redis, queue.root, RecountAsk(account="ann"))
    ask = step.next
    assert ask is not None
    assert ask.session == ticket.session
    # Changes meanwhile: to this session, another one, a new one, and one that is deleted.
    await _talk(queue, 1, ticket.session)
    await _talk(queue, 1, other.session)
    new = await _talk(queue, 1)
    calls = 1
    while ask is not None:
        calls += 1
        ask = (await functions.recount(queue.redis, queue.root, ask)).next
    assert 2 <= calls <= 6
    assert await _due(queue) == []
    for session in (new.session, ticket.session, other.session):
        assert await queue.delete_session("ann", session)
    assert await _stored(queue) == 0


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_many_sessions_are_counted_in_several_calls(
    queue: RedisFunctions, is_deleted: bool
) -> None:
    made = [await _create(queue) for _ in range(150)]
    exact = await _stored(queue)
    step = await functions.recount(queue.redis, queue.root, RecountAsk(account="ann"))
    assert step.next is not None
    for each in made[::3] if is_deleted else []:
        assert isinstance(each, NewSession)
        assert await queue.delete_session("ann", each.id)
    # Its worker dies, and another one begins.
    assert await count_stored(queue.redis, queue.root, "ann") == (0, 0, False)
    assert await _stored(queue) == (exact * 2 // 3 if is_deleted else exact)
