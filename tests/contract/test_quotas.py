"""Quotas of sessions and stored bytes: exact, freed by deletion, and counted again where unknown.

What is left after each test is also weighed by `tests/support/ledger.py`.
"""

import pytest
from structlog.testing import capture_logs

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import (
    Accepted,
    CreateSessionAsk,
    NewSession,
    NotAccepted,
    NotRevived,
    RecountAsk,
)
from tests.support.desk import LONG_MS, Desk, Ticket
from worker.chores.recount import count_stored, recount
from worker.run import INTERNAL


async def _create(
    desk: Desk, *, sessions_max: int = 1_000, stored_bytes_max: int = 1_000_000
) -> NewSession | NotAccepted:
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
    return await functions.create_session(desk.redis, desk.root, ask)


async def _stored(desk: Desk) -> int:
    where = keys.BOOKS(desk.root, "ann")
    sums = await desk.redis.call("HMGET", where, "stored_0", "stored_1")
    return sum(int(each or 0) for each in sums)


async def _due(desk: Desk) -> list[bytes]:
    found: list[bytes] = await desk.redis.call("ZRANGE", keys.RECOUNT(desk.root), 0, -1)
    return found


async def _talk(desk: Desk, turns: int, session: str | None = None) -> Ticket:
    ticket = await desk.submit(session=session, content="x" * 100)
    await desk.complete(await desk.claim_one(), "y" * 50)
    for _ in range(turns - 1):
        await desk.submit(session=ticket.session, content="x" * 100)
        await desk.complete(await desk.claim_one(), "y" * 50)
    return ticket


async def test_sessions_have_a_quota_that_deleting_gives_back(desk: Desk) -> None:
    made = [await _create(desk, sessions_max=3)]
    accepted = await desk.submit("ann")
    made.append(await _create(desk, sessions_max=3))
    assert all(isinstance(each, NewSession) for each in made)
    for refused in (await _create(desk, sessions_max=3), await desk.accept(sessions_max=3)):
        assert isinstance(refused, NotAccepted)
        assert (refused.reason, refused.about, refused.used) == ("quota", "sessions", 3)
        assert refused.rate is not None
    # A further message of a session that is there needs no other one.
    assert isinstance(await desk.accept("ann", accepted.session, sessions_max=3), Accepted)
    assert await desk.delete_session("ann", accepted.session)
    assert isinstance(await desk.accept(sessions_max=3), Accepted)


async def test_stored_bytes_have_a_quota_to_the_byte(desk: Desk) -> None:
    ticket = await desk.submit(content="x" * 1_000, name="n" * 10, system_prompt="s" * 100)
    at_first = await _stored(desk)
    assert 1_110 < at_first < 1_300
    # Ids, time and content of the next message are as long as those of the first.
    more = at_first - 110
    refused = await desk.accept(
        "ann", ticket.session, content="x" * 1_000, stored_bytes_max=at_first + more - 1
    )
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.about, refused.used) == ("quota", "stored_bytes", at_first)
    assert await _stored(desk) == at_first
    taken = await desk.accept(
        "ann", ticket.session, content="x" * 1_000, stored_bytes_max=at_first + more
    )
    assert isinstance(taken, Accepted)
    assert await _stored(desk) == at_first + more
    full = await _create(desk, stored_bytes_max=at_first + more)
    assert isinstance(full, NotAccepted)
    assert full.about == "stored_bytes"
    assert await desk.delete_session("ann", ticket.session)
    assert await _stored(desk) == 0
    assert isinstance(await _create(desk, stored_bytes_max=100), NewSession)


async def test_what_is_cancelled_at_no_cost_is_stored_and_counted(desk: Desk) -> None:
    session, count = (await desk.submit()).session, 0
    while True:
        answer = await desk.accept("ann", session, content="x" * 1_000, stored_bytes_max=20_000)
        if not isinstance(answer, Accepted):
            break
        count += 1
        for _ in range(2):
            ids_ = await desk.redis.call(
                "ZRANGE", keys.UNFINISHED(desk.root, "ann", "interactive"), 0, -1
            )
            for id_ in ids_:
                await desk.cancel(Ticket("ann", session, id_.decode()))
    assert isinstance(answer, NotAccepted)
    assert (answer.reason, answer.about) == ("quota", "stored_bytes")
    assert 10 <= count <= 17
    assert 18_000 < await _stored(desk) <= 20_000 + 200


async def test_names_and_answers_and_interrupts_are_counted(desk: Desk) -> None:
    ticket = await _talk(desk, 2)
    before = await _stored(desk)
    assert await desk.rename_session("ann", ticket.session, "A much longer name than it had")
    assert await _stored(desk) > before
    assert await desk.rename_session("ann", ticket.session, "b")
    assert await _stored(desk) == before - len("A talk") + 1
    for _ in range(3):
        await desk.submit(session=ticket.session)
    interrupted = await desk.accept("ann", ticket.session, on_conflict="interrupt")
    assert isinstance(interrupted, Accepted)


async def test_retry_of_a_dead_letter_is_counted_and_has_the_same_quota(desk: Desk) -> None:
    dead = await desk.submit(content="x" * 1_000)
    await desk.fail(await desk.claim_one(), INTERNAL)
    before = await _stored(desk)
    assert await desk.revive(dead, stored_bytes_max=before + 100) == NotRevived("quota")
    assert await desk.revive(dead) != NotRevived("quota")
    assert await _stored(desk) > before + 1_000


async def test_account_of_before_is_counted_by_the_chore(desk: Desk) -> None:
    tickets = [await _talk(desk, 18) for _ in range(3)]
    exact = await _stored(desk)
    books = keys.BOOKS(desk.root, "ann")
    await desk.redis.call("HDEL", books, "stored_0", "stored_1", "stored_side", "counted_at")
    for ticket in tickets:
        where = keys.SESSION(desk.root, "ann", ticket.session)
        await desk.redis.call("HDEL", where, "bytes", "side")
    assert await _due(desk) == []
    again = await desk.submit(session=tickets[1].session)
    assert await _due(desk) == [b"ann"]
    with capture_logs() as lines:
        assert await recount(desk.redis, desk.settings) == 1
    assert lines == []
    assert await _due(desk) == []
    assert await _stored(desk) > exact
    await desk.cancel(again)
    for ticket in tickets:
        assert await desk.delete_session("ann", ticket.session)
    assert await _stored(desk) == 0


async def test_what_an_older_process_stores_or_deletes_is_found_and_told(desk: Desk) -> None:
    kept, grown, gone = [await _talk(desk, 2) for _ in range(3)]
    exact = await _stored(desk)
    # It deletes a session, and puts a record into another, without counting either.
    session = keys.SESSION(desk.root, "ann", gone.session)
    lost = int(await desk.redis.call("HGET", session, "bytes"))
    await desk.redis.call("DEL", session, keys.TURNS(desk.root, "ann", gone.session, 0))
    await desk.redis.call("ZREM", keys.SESSIONS(desk.root, "ann"), gone.session)
    turns = keys.TURNS(desk.root, "ann", grown.session, 0)
    record = await desk.redis.call("HGET", turns, "1:u")
    await desk.redis.call("HSET", turns, "3:u", record)
    await desk.redis.call("HSET", keys.SESSION(desk.root, "ann", grown.session), "turns", 3)
    assert await _stored(desk) == exact
    assert (await count_stored(desk.redis, desk.root, "ann")) == (len(record), lost, False)
    assert await _stored(desk) == exact - lost + len(record)
    await desk.redis.call("ZADD", keys.RECOUNT(desk.root), 1, "ann")
    with capture_logs() as lines:
        await recount(desk.redis, desk.settings)
    assert lines == []
    assert await desk.delete_session("ann", kept.session)


async def test_sessions_of_older_processes_are_counted_by_whichever_count_comes_next(
    desk: Desk,
) -> None:
    for _ in range(2):
        ticket = await _talk(desk, 2)
        where = keys.SESSION(desk.root, "ann", ticket.session)
        weight = int(await desk.redis.call("HGET", where, "bytes"))
        sum_before = await _stored(desk) - weight
        # An older process makes a session without counting it.
        await desk.redis.call("HDEL", where, "bytes", "side")
        for side in ("0", "1"):
            name = f"stored_{side}"
            held = int(await desk.redis.call("HGET", keys.BOOKS(desk.root, "ann"), name) or 0)
            if held >= weight:
                await desk.redis.call("HINCRBY", keys.BOOKS(desk.root, "ann"), name, -weight)
        assert await _stored(desk) == sum_before
        assert await count_stored(desk.redis, desk.root, "ann") == (weight, 0, False)
        assert await _stored(desk) == sum_before + weight


async def test_drift_is_logged_with_its_account(desk: Desk) -> None:
    await _talk(desk, 1)
    await desk.redis.call("HINCRBY", keys.BOOKS(desk.root, "ann"), "stored_0", 77)
    await desk.redis.call("ZADD", keys.RECOUNT(desk.root), 1, "ann")
    with capture_logs() as lines:
        await recount(desk.redis, desk.settings)
    assert [(line["event"], line["account"], line["deleted_bytes"]) for line in lines] == [
        ("stored bytes were counted wrong", "ann", 77)
    ]


async def test_count_never_falls_below_zero(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.redis.call("HSET", keys.BOOKS(desk.root, "ann"), "stored_0", 3)
    assert await desk.delete_session("ann", ticket.session)
    assert await _stored(desk) == 0


async def test_refusal_by_an_old_count_has_it_counted_again(desk: Desk) -> None:
    ticket = await desk.submit()
    books = keys.BOOKS(desk.root, "ann")
    # An older process deleted so much without subtracting it.
    await desk.redis.call("HINCRBY", books, "stored_0", 5_000)
    assert isinstance(await desk.accept(stored_bytes_max=5_000), NotAccepted)
    assert await _due(desk) == []
    await desk.redis.call("HINCRBY", books, "counted_at", -3_600_000)
    assert isinstance(await desk.accept(stored_bytes_max=5_000), NotAccepted)
    assert await _due(desk) == [b"ann"]
    assert (await count_stored(desk.redis, desk.root, "ann"))[1] == 5_000
    assert isinstance(await desk.accept(stored_bytes_max=5_000), Accepted)
    await desk.cancel(ticket)


async def test_count_of_a_day_ago_is_due_again(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.redis.call("HINCRBY", keys.BOOKS(desk.root, "ann"), "counted_at", -90_000_000)
    await desk.submit(session=ticket.session)
    assert await _due(desk) == [b"ann"]
    await recount(desk.redis, desk.settings)
    await desk.submit(session=ticket.session)
    assert await _due(desk) == []


async def test_session_too_long_for_one_call_is_weighed_while_it_changes(desk: Desk) -> None:
    ticket = await _talk(desk, 3)
    other = await _talk(desk, 1)
    where = keys.SESSION(desk.root, "ann", ticket.session)
    turns = keys.TURNS(desk.root, "ann", ticket.session, 0)
    asked, answered = await desk.redis.call("HMGET", turns, "1:u", "1:a")
    # Two thousand turns of an older process.
    await desk.redis.call("HSET", where, "turns", 2_000)
    for chunk in range(1, 126):
        fields = [
            word
            for turn in range(chunk * 16, min(chunk * 16 + 16, 2_001))
            for word in (f"{turn}:u", asked, f"{turn}:a", answered)
        ]
        await desk.redis.call("HSET", keys.TURNS(desk.root, "ann", ticket.session, chunk), *fields)
    step = await functions.recount(desk.redis, desk.root, RecountAsk(account="ann"))
    ask = step.next
    assert ask is not None
    assert ask.session == ticket.session
    # What changes meanwhile: this session, another one, a new one, one that goes.
    await _talk(desk, 1, ticket.session)
    await _talk(desk, 1, other.session)
    new = await _talk(desk, 1)
    calls = 1
    while ask is not None:
        calls += 1
        ask = (await functions.recount(desk.redis, desk.root, ask)).next
    assert 2 <= calls <= 6
    assert await _due(desk) == []
    for session in (new.session, ticket.session, other.session):
        assert await desk.delete_session("ann", session)
    assert await _stored(desk) == 0


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_many_sessions_are_counted_in_several_calls(desk: Desk, is_deleted: bool) -> None:
    made = [await _create(desk) for _ in range(150)]
    exact = await _stored(desk)
    step = await functions.recount(desk.redis, desk.root, RecountAsk(account="ann"))
    assert step.next is not None
    for each in made[::3] if is_deleted else []:
        assert isinstance(each, NewSession)
        assert await desk.delete_session("ann", each.id)
    # Its worker dies, and another one begins.
    assert await count_stored(desk.redis, desk.root, "ann") == (0, 0, False)
    assert await _stored(desk) == (exact * 2 // 3 if is_deleted else exact)
