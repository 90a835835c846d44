"""Dead letters: which failures are kept, what of them, and what `dead`, `revive`, `discard` do."""

import asyncio

import pytest

from shared import errors
from shared.errors import CRASHED, Failure
from shared.redis import keys
from shared.redis.functions import KeepTimes, Retried, RetryRefused
from shared.settings import RedisSettings
from shared.wire.message import decode_user
from shared.wire.submission import TURN_WIRE
from tests.support import redis_invariants
from tests.support.redis_functions import KEEP, RedisFunctions, Ticket
from tests.support.redis_server import Server
from tests.support.waiting import until

DOWN = Failure(
    message="The provider is down.",
    category="provider_error",
    code="UPSTREAM_500",
    retryable=True,
    provider="scripted",
)


async def _dies(queue: RedisFunctions, session: str | None = None, *, hold: int = 0) -> Ticket:
    ticket = await queue.submit("ann", session, hold=hold, content="Why?", metadata={"a": "b"})
    assert await queue.fail(await queue.claim_one(), DOWN) is not None
    return ticket


async def _letter(queue: RedisFunctions, ticket: Ticket) -> dict[str, str]:
    stored = await queue.redis.call(
        "HGETALL", keys.DEAD_LETTER(queue.root, ticket.account, ticket.id)
    )
    return {name.decode(): value.decode(errors="replace") for name, value in stored.items()}


async def _is_dead(queue: RedisFunctions, ticket: Ticket) -> bool:
    return bool(await _letter(queue, ticket))


async def _listed(queue: RedisFunctions) -> list[str]:
    return [each.id for each in await queue.dead()]


@pytest.mark.parametrize("category", sorted(errors.DEAD_CATEGORIES))
async def test_failure_that_is_not_the_callers_leaves_a_dead_letter(
    queue: RedisFunctions, category: errors.Category
) -> None:
    ticket = await queue.submit()
    await queue.fail(await queue.claim_one(), Failure(message="No.", category=category, code="X"))
    [buried] = await queue.dead()
    assert buried.id == ticket.id
    assert (await queue.status(ticket)).record["stage"] == "failed"


@pytest.mark.parametrize("category", ["content_policy", "invalid_request", "cancelled", "expired"])
async def test_failure_of_the_caller_or_a_deadline_leaves_no_dead_letter(
    queue: RedisFunctions, category: errors.Category
) -> None:
    ticket = await queue.submit()
    await queue.fail(await queue.claim_one(), Failure(message="No.", category=category, code="X"))
    assert await queue.dead() == []
    assert not await _is_dead(queue, ticket)


async def test_completed_cancelled_and_expired_generations_leave_no_dead_letter(
    queue: RedisFunctions,
) -> None:
    await queue.submit()
    await queue.complete(await queue.claim_one())
    await queue.cancel(await queue.submit())
    late = await queue.submit()
    await queue.redis.call("ZADD", keys.DEADLINES(queue.root), "XX", 1, f"ann:{late.id}")
    assert (await queue.reap()).done == [("ann", late.id, "expired")]
    assert await queue.dead() == []


async def test_time_of_a_wait_is_no_time_of_its_dead_letter(queue: RedisFunctions) -> None:
    ticket = await queue.submit(deadline_ms=77_000, wire=TURN_WIRE)
    seq = 1
    for wait_ms in (3_600_000, 7_200_000):
        [claimed] = await queue.claim(wire=TURN_WIRE)
        assert await queue.suspend(claimed, seq, wait_ms, text="Hm.") == "suspended"
        # As if a part of the wait were over.
        record = keys.GENERATION(queue.root, ticket.account, ticket.id)
        since, until_ms = (await queue.redis.call("HGET", record, "suspended")).split()
        earlier = f"{int(since) - 5_000} {int(until_ms)}"
        deadline = int(await queue.redis.call("HGET", record, "deadline"))
        await queue.redis.call("HSET", record, "suspended", earlier, "deadline", deadline + 5_000)
        assert await queue.resume(ticket) == "resumed"
        # The claim of a later attempt has its first event.
        seq = 2
    [claimed] = await queue.claim(wire=TURN_WIRE)
    assert claimed.deadline_ms > claimed.accepted_ms + 77_000 + 9_000
    await queue.fail(claimed, DOWN)
    assert (await _letter(queue, ticket))["deadline"] == "77000"


async def test_dead_letter_has_the_message_and_how_each_attempt_ended(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40, content="Why?", lane="batch", deadline_ms=77_000)
    await queue.claim_one(worker="w1", lease_ms=0)
    await queue.reap()
    await queue.release((await queue.claim(worker="w2"))[0])
    await queue.release((await queue.claim(worker="w3"))[0], delay_ms=1, why="RATE_LIMITED")
    await until(lambda: _is_back(queue))
    await queue.fail((await queue.claim(worker="w4"))[0], DOWN)
    [buried] = await queue.dead()
    retry = {name: value.decode(errors="replace") for name, value in buried.record.items()}
    attempts = [attempt.split(" ") for attempt in retry["attempts"].split("\n")]
    assert [(number, worker, why) for number, _, _, worker, why in attempts] == [
        ("1", "w1", "CRASHED"),
        ("2", "w2", "RELEASED"),
        ("3", "w3", "RATE_LIMITED"),
        ("4", "w4", "UPSTREAM_500"),
    ]
    assert all(0 < int(begun) <= int(ended) <= buried.died_ms for _, begun, ended, *_ in attempts)
    letter = await _letter(queue, ticket)
    assert (letter["session"], letter["turn"], letter["lane"]) == (ticket.session, "1", "batch")
    assert (letter["model"], letter["chosen"], letter["hold"]) == ("auto", "alpha", "40")
    assert (letter["attempt"], letter["key"], letter["deadline"]) == ("4", "key-1", "77000")
    assert int(letter["accepted"]) <= int(letter["died"]) == buried.died_ms
    message = await queue.redis.call(
        "HGET", keys.DEAD_LETTER(queue.root, "ann", ticket.id), "message"
    )
    assert decode_user(message).content == "Why?"
    assert "history" not in (await queue.status(ticket)).record


async def _is_back(queue: RedisFunctions) -> bool:
    await queue.reap()
    return bool(await queue.redis.call("EXISTS", keys.LANE(queue.root, "batch")))


async def test_poison_is_kept_with_every_crash(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    for worker in ("w1", "w2", "w3"):
        await queue.claim_one(worker=worker, lease_ms=0)
        await queue.reap(crashes_max=3)
    letter = await _letter(queue, ticket)
    assert [attempt.split(" ")[3:] for attempt in letter["attempts"].split("\n")] == [
        ["w1", "CRASHED"],
        ["w2", "CRASHED"],
        ["w3", "CRASHED"],
    ]
    assert CRASHED.code in letter["failure"]


async def test_dead_letter_has_the_last_attempts_only(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    for _ in range(40):
        await queue.release(await queue.claim_one())
    assert len((await queue.status(ticket)).record["history"].split("\n")) == 16
    await queue.fail(await queue.claim_one(), DOWN)
    attempts = (await _letter(queue, ticket))["attempts"].split("\n")
    assert [attempt.split(" ")[0] for attempt in attempts] == [
        str(number) for number in range(26, 42)
    ]


async def test_history_of_attempts_is_deleted_when_the_generation_completes(
    queue: RedisFunctions,
) -> None:
    ticket = await queue.submit()
    await queue.release(await queue.claim_one())
    await queue.complete(await queue.claim_one())
    assert "history" not in (await queue.status(ticket)).record


async def test_dead_letters_expire(queue: RedisFunctions) -> None:
    keep = KeepTimes(record_ms=60_000, events_ms=30_000, dead_ms=50)
    ticket = await queue.submit()
    await queue.fail(await queue.claim_one(), DOWN, keep=keep)

    async def is_gone() -> bool:
        return not await _is_dead(queue, ticket)

    await until(is_gone)
    assert await queue.dead(keep=keep) == []
    assert await queue.redis.call("EXISTS", keys.DEAD_LETTERS(queue.root)) == 0


async def test_oldest_dead_letters_are_deleted_when_there_are_too_many(
    queue: RedisFunctions,
) -> None:
    tickets = []
    keep = KeepTimes(record_ms=60_000, events_ms=30_000, dead_max=3)
    for _ in range(5):
        tickets.append(await queue.submit())
        await queue.fail(await queue.claim_one(), DOWN, keep=keep)
        await _next_ms(queue)
    assert await _listed(queue) == [ticket.id for ticket in reversed(tickets[2:])]
    assert not await _is_dead(queue, tickets[0])
    # A smaller limit applies from the next listing on.
    assert len(await queue.dead(keep=KeepTimes(60_000, 30_000, dead_max=1))) == 1


async def _next_ms(queue: RedisFunctions) -> None:
    """Wait until Redis' clock shows another millisecond."""

    async def now() -> int:
        seconds, micros = await queue.redis.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    began = await now()

    async def has_passed() -> bool:
        return await now() > began

    await until(has_passed)


async def test_pages_follow_one_another_whatever_leaves_the_list(queue: RedisFunctions) -> None:
    tickets = {ticket.id: ticket for ticket in [await _dies(queue) for _ in range(7)]}
    # All within one millisecond: the order is total nevertheless.
    names = [f"ann:{id_}" for id_ in tickets]
    for name in names:
        await queue.redis.call("ZADD", keys.DEAD_LETTERS(queue.root), "XX", 2_000_000_000_000, name)
    every = await _listed(queue)
    assert every == sorted(tickets, reverse=True)
    first = await queue.dead(3)
    last = first[-1]
    assert await queue.discard(tickets[last.id]) == [True]
    assert await queue.discard(tickets[first[0].id]) == [True]
    second = await queue.dead(3, after_ms=last.died_ms, after=f"ann:{last.id}")
    assert [each.id for each in (*first, *second)] == every[:6]
    assert await queue.dead(3, after_ms=1, after="ann:0") == []


async def test_list_is_narrowed_by_time(queue: RedisFunctions) -> None:
    for _ in range(3):
        await _dies(queue)
        await _next_ms(queue)
    newest, middle, oldest = [each.died_ms for each in await queue.dead()]

    async def died(**asked: int) -> list[int]:
        return [each.died_ms for each in await queue.dead(**asked)]  # type: ignore[arg-type]  # both are times

    assert await died(since_ms=middle) == [newest, middle]
    assert await died(until_ms=middle) == [middle, oldest]
    assert await died(since_ms=middle, until_ms=middle) == [middle]
    assert await died(since_ms=newest + 1) == []


async def test_dead_letter_is_retried_once_with_the_same_message(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await _dies(queue, hold=40)
    retry, *again = await asyncio.gather(*(queue.revive(ticket) for _ in range(5)))
    assert isinstance(retry, Retried)
    assert retry.generation != ticket.id
    assert again == [retry] * 4
    assert await queue.revive(ticket) == retry
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held) == (60, 40)
    assert await _listed(queue) == []
    assert (await _letter(queue, ticket))["retried_as"] == retry.generation
    claimed = await queue.claim_one()
    assert (claimed.id, claimed.attempt, claimed.turn, claimed.hold) == (retry.generation, 1, 2, 40)
    message = decode_user(claimed.user_message)
    assert (message.content, message.metadata) == ("Why?", {"a": "b"})
    assert message.generation == retry.generation
    assert claimed.deadline_ms - claimed.accepted_ms == 60_000
    await queue.complete(claimed, "Because.", cost=30)
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (70, 0, 30)
    assert await queue.claim() == []
    assert await queue.stage(ticket) == "failed"


async def test_retried_letter_waits_behind_what_its_session_has_under_way(
    queue: RedisFunctions,
) -> None:
    ticket = await _dies(queue)
    following = await queue.submit("ann", ticket.session)
    retry = await queue.revive(ticket)
    assert isinstance(retry, Retried)
    head = await queue.claim_one()
    assert head.id == following.id
    assert await queue.claim() == []
    await queue.complete(head)
    assert (await queue.claim_one()).id == retry.generation


async def test_retry_that_fails_again_is_a_letter_of_its_own(queue: RedisFunctions) -> None:
    ticket = await _dies(queue)
    retry = await queue.revive(ticket)
    assert isinstance(retry, Retried)
    await queue.fail(await queue.claim_one(), DOWN)
    assert await _listed(queue) == [retry.generation]
    again = await queue.revive(Ticket("ann", ticket.session, retry.generation))
    assert isinstance(again, Retried)
    await queue.complete(await queue.claim_one())


async def test_retry_is_refused_with_the_reason_and_changes_nothing(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await _dies(queue, hold=100)
    await queue.grant(-30)
    before = await _letter(queue, ticket)
    assert await queue.revive(ticket) == RetryRefused("poor", 70)
    await queue.grant(30)
    await queue.submit()
    assert await queue.revive(ticket, unfinished_max=1) == RetryRefused("crowded")
    assert await queue.revive(ticket, waiting_max=0) == RetryRefused("waiting")
    assert await queue.revive(ticket, total_max=1) == RetryRefused("full")
    assert await queue.revive(Ticket("bob", ticket.session, ticket.id)) == RetryRefused("unknown")
    where = keys.DEAD_LETTER(queue.root, "ann", ticket.id)
    kept = await queue.redis.call("HGET", where, "message")
    for broken in (b"", b"\xc1", b"\x01"):
        await queue.redis.call("HSET", where, "message", broken)
        assert await queue.revive(ticket) == RetryRefused("unreadable")
    await queue.redis.call("HSET", where, "message", kept)
    assert await _letter(queue, ticket) == before
    assert await _listed(queue) == [ticket.id]
    assert (await queue.credit_totals()).balance == 100


async def test_discarded_letter_is_gone(queue: RedisFunctions) -> None:
    first, second = await _dies(queue), await _dies(queue)
    stranger = Ticket("bob", first.session, first.id)
    assert await queue.discard(first, stranger) == [True, False]
    assert await queue.discard(first) == [False]
    assert await queue.revive(first) == RetryRefused("unknown")
    assert await _listed(queue) == [second.id]
    assert await queue.stage(first) == "failed"


async def test_deleted_session_takes_its_letters_along(queue: RedisFunctions) -> None:
    first = await _dies(queue)
    second = await _dies(queue, first.session)
    other = await _dies(queue)
    assert isinstance(await queue.revive(first), Retried)
    assert await queue.delete_session("ann", first.session)
    for ticket in (first, second):
        assert not await _is_dead(queue, ticket)
        assert await queue.revive(ticket) == RetryRefused("unknown")
    assert await _listed(queue) == [other.id]
    assert await queue.claim() == []


async def test_letter_outlives_the_record_of_its_generation(queue: RedisFunctions) -> None:
    ticket = await _dies(queue)
    await queue.redis.call("DEL", keys.GENERATION(queue.root, "ann", ticket.id))
    assert KEEP.dead_ms > KEEP.record_ms
    assert isinstance(await queue.revive(ticket), Retried)
    assert (await queue.claim_one()).turn == 2


async def test_invariants_find_what_is_wrong_with_dead_letters(
    queue: RedisFunctions, server: Server, redis_settings: RedisSettings
) -> None:
    kept, retried = await _dies(queue), await _dies(queue)
    assert isinstance(await queue.revive(retried), Retried)
    name, listed = f"ann:{kept.id}", keys.DEAD_LETTERS(queue.root)
    letter, old = (keys.DEAD_LETTER(queue.root, "ann", each.id) for each in (kept, retried))
    generation = keys.GENERATION(queue.root, "ann", kept.id)
    session = keys.SESSION(queue.root, "ann", kept.session)
    spoilt = [
        (("ZREM", listed, name), ("ZADD", listed, 1, name), "not in the list"),
        (
            ("ZADD", listed, 1, f"ann:{retried.id}"),
            ("ZREM", listed, f"ann:{retried.id}"),
            "retried",
        ),
        (("PERSIST", letter), ("PEXPIRE", letter, 60_000), "never expires"),
        (("RENAME", letter, f"{letter}x"), ("RENAME", f"{letter}x", letter), "is gone"),
        (("RENAME", session, f"{session}x"), ("RENAME", f"{session}x", session), "outlived"),
        (("HSET", generation, "stage", "queued"), ("HSET", generation, "stage", "failed"), "dead"),
    ]
    with server.raw_client() as raw_client:
        assert redis_invariants.faults(raw_client, redis_settings) == []
        for spoil, repair, word in spoilt:
            await queue.redis.call(*spoil)
            assert any(
                word in fault for fault in redis_invariants.faults(raw_client, redis_settings)
            ), word
            await queue.redis.call(*repair)
        assert redis_invariants.faults(raw_client, redis_settings) == []
        assert raw_client("EXISTS", old) == 1
