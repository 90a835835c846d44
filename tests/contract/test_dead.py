"""Dead letters: which failures are kept, what of them, and what `dead`, `revive`, `discard` do."""

import asyncio

import pytest

from shared import errors
from shared.errors import CRASHED, Failure
from shared.redis import keys
from shared.redis.functions import Keep, NotRevived, Revived
from shared.settings import RedisSettings
from shared.wire.message import decode_user
from tests.support import ledger
from tests.support.desk import KEEP, Desk, Ticket
from tests.support.server import Server
from tests.support.waiting import until

DOWN = Failure(
    message="The provider is down.",
    category="provider_error",
    code="UPSTREAM_500",
    retryable=True,
    provider="scripted",
)


async def _dies(desk: Desk, session: str | None = None, *, hold: int = 0) -> Ticket:
    ticket = await desk.submit("ann", session, hold=hold, content="Why?", metadata={"a": "b"})
    assert await desk.fail(await desk.claim_one(), DOWN) is not None
    return ticket


async def _letter(desk: Desk, ticket: Ticket) -> dict[str, str]:
    stored = await desk.redis.call("HGETALL", keys.LETTER(desk.root, ticket.account, ticket.id))
    return {name.decode(): value.decode(errors="replace") for name, value in stored.items()}


async def _is_dead(desk: Desk, ticket: Ticket) -> bool:
    return bool(await _letter(desk, ticket))


async def _listed(desk: Desk) -> list[str]:
    return [each.id for each in await desk.dead()]


@pytest.mark.parametrize("category", sorted(errors.DEAD_CATEGORIES))
async def test_failure_that_is_not_the_callers_is_kept(
    desk: Desk, category: errors.Category
) -> None:
    ticket = await desk.submit()
    await desk.fail(await desk.claim_one(), Failure(message="No.", category=category, code="X"))
    [buried] = await desk.dead()
    assert buried.id == ticket.id
    assert (await desk.status(ticket)).record["stage"] == "failed"


@pytest.mark.parametrize("category", ["content_policy", "invalid_request", "cancelled", "expired"])
async def test_failure_that_is_the_callers_or_times_is_not_kept(
    desk: Desk, category: errors.Category
) -> None:
    ticket = await desk.submit()
    await desk.fail(await desk.claim_one(), Failure(message="No.", category=category, code="X"))
    assert await desk.dead() == []
    assert not await _is_dead(desk, ticket)


async def test_what_completes_or_is_cancelled_or_expires_is_not_kept(desk: Desk) -> None:
    await desk.submit()
    await desk.complete(await desk.claim_one())
    await desk.cancel(await desk.submit())
    late = await desk.submit()
    await desk.redis.call("ZADD", keys.DEADLINES(desk.root), "XX", 1, f"ann:{late.id}")
    assert (await desk.reap()).done == [("ann", late.id, "expired")]
    assert await desk.dead() == []


async def test_letter_tells_what_was_asked_and_how_each_attempt_ended(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await desk.submit(hold=40, content="Why?", lane="batch", deadline_ms=77_000)
    await desk.claim_one(worker="w1", lease_ms=0)
    await desk.reap()
    await desk.release((await desk.claim(worker="w2"))[0])
    await desk.release((await desk.claim(worker="w3"))[0], delay_ms=1, why="RATE_LIMITED")
    await until(lambda: _is_back(desk))
    await desk.fail((await desk.claim(worker="w4"))[0], DOWN)
    [buried] = await desk.dead()
    told = {name: value.decode(errors="replace") for name, value in buried.record.items()}
    lines = [line.split(" ") for line in told["attempts"].split("\n")]
    assert [(number, worker, why) for number, _, _, worker, why in lines] == [
        ("1", "w1", "CRASHED"),
        ("2", "w2", "RELEASED"),
        ("3", "w3", "RATE_LIMITED"),
        ("4", "w4", "UPSTREAM_500"),
    ]
    assert all(0 < int(begun) <= int(ended) <= buried.died_ms for _, begun, ended, *_ in lines)
    letter = await _letter(desk, ticket)
    assert (letter["session"], letter["turn"], letter["lane"]) == (ticket.session, "1", "batch")
    assert (letter["model"], letter["chosen"], letter["hold"]) == ("auto", "alpha", "40")
    assert (letter["attempt"], letter["key"], letter["deadline"]) == ("4", "key-1", "77000")
    assert int(letter["accepted"]) <= int(letter["died"]) == buried.died_ms
    message = await desk.redis.call("HGET", keys.LETTER(desk.root, "ann", ticket.id), "message")
    assert decode_user(message).content == "Why?"
    assert "history" not in (await desk.status(ticket)).record


async def _is_back(desk: Desk) -> bool:
    await desk.reap()
    return bool(await desk.redis.call("EXISTS", keys.LANE(desk.root, "batch")))


async def test_poison_is_kept_with_every_crash(desk: Desk) -> None:
    ticket = await desk.submit()
    for worker in ("w1", "w2", "w3"):
        await desk.claim_one(worker=worker, lease_ms=0)
        await desk.reap(crashes_max=3)
    letter = await _letter(desk, ticket)
    assert [line.split(" ")[3:] for line in letter["attempts"].split("\n")] == [
        ["w1", "CRASHED"],
        ["w2", "CRASHED"],
        ["w3", "CRASHED"],
    ]
    assert CRASHED.code in letter["failure"]


async def test_only_the_last_attempts_are_told(desk: Desk) -> None:
    ticket = await desk.submit()
    for _ in range(40):
        await desk.release(await desk.claim_one())
    assert len((await desk.status(ticket)).record["history"].split("\n")) == 16
    await desk.fail(await desk.claim_one(), DOWN)
    lines = (await _letter(desk, ticket))["attempts"].split("\n")
    assert [line.split(" ")[0] for line in lines] == [str(number) for number in range(26, 42)]


async def test_history_of_what_is_answered_goes_with_it(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.release(await desk.claim_one())
    await desk.complete(await desk.claim_one())
    assert "history" not in (await desk.status(ticket)).record


async def test_letters_go_when_they_are_too_old(desk: Desk) -> None:
    keep = Keep(record_ms=60_000, events_ms=30_000, dead_ms=50)
    ticket = await desk.submit()
    await desk.fail(await desk.claim_one(), DOWN, keep=keep)

    async def is_gone() -> bool:
        return not await _is_dead(desk, ticket)

    await until(is_gone)
    assert await desk.dead(keep=keep) == []
    assert await desk.redis.call("EXISTS", keys.DEAD(desk.root)) == 0


async def test_the_oldest_go_when_there_are_too_many(desk: Desk) -> None:
    tickets = []
    keep = Keep(record_ms=60_000, events_ms=30_000, dead_max=3)
    for _ in range(5):
        tickets.append(await desk.submit())
        await desk.fail(await desk.claim_one(), DOWN, keep=keep)
        await _next_ms(desk)
    assert await _listed(desk) == [ticket.id for ticket in reversed(tickets[2:])]
    assert not await _is_dead(desk, tickets[0])
    # A smaller setting holds from the next look on.
    assert len(await desk.dead(keep=Keep(60_000, 30_000, dead_max=1))) == 1


async def _next_ms(desk: Desk) -> None:
    """Wait until Redis' clock shows another millisecond."""

    async def now() -> int:
        seconds, micros = await desk.redis.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    began = await now()

    async def has_passed() -> bool:
        return await now() > began

    await until(has_passed)


async def test_pages_follow_one_another_whatever_leaves_the_list(desk: Desk) -> None:
    tickets = {ticket.id: ticket for ticket in [await _dies(desk) for _ in range(7)]}
    # All in one millisecond: the order is still total.
    names = [f"ann:{id_}" for id_ in tickets]
    for name in names:
        await desk.redis.call("ZADD", keys.DEAD(desk.root), "XX", 2_000_000_000_000, name)
    every = await _listed(desk)
    assert every == sorted(tickets, reverse=True)
    first = await desk.dead(3)
    last = first[-1]
    assert await desk.discard(tickets[last.id]) == [True]
    assert await desk.discard(tickets[first[0].id]) == [True]
    second = await desk.dead(3, after_ms=last.died_ms, after=f"ann:{last.id}")
    assert [each.id for each in (*first, *second)] == every[:6]
    assert await desk.dead(3, after_ms=1, after="ann:0") == []


async def test_list_is_narrowed_by_time(desk: Desk) -> None:
    for _ in range(3):
        await _dies(desk)
        await _next_ms(desk)
    newest, middle, oldest = [each.died_ms for each in await desk.dead()]

    async def died(**asked: int) -> list[int]:
        return [each.died_ms for each in await desk.dead(**asked)]  # type: ignore[arg-type]  # both are times

    assert await died(since_ms=middle) == [newest, middle]
    assert await died(until_ms=middle) == [middle, oldest]
    assert await died(since_ms=middle, until_ms=middle) == [middle]
    assert await died(since_ms=newest + 1) == []


async def test_retry_asks_the_same_again_once(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await _dies(desk, hold=40)
    told, *again = await asyncio.gather(*(desk.revive(ticket) for _ in range(5)))
    assert isinstance(told, Revived)
    assert told.generation != ticket.id
    assert again == [told] * 4
    assert await desk.revive(ticket) == told
    books = await desk.books()
    assert (books.balance, books.held) == (60, 40)
    assert await _listed(desk) == []
    assert (await _letter(desk, ticket))["retried_as"] == told.generation
    claimed = await desk.claim_one()
    assert (claimed.id, claimed.attempt, claimed.turn, claimed.hold) == (told.generation, 1, 2, 40)
    message = decode_user(claimed.user_message)
    assert (message.content, message.metadata) == ("Why?", {"a": "b"})
    assert message.generation == told.generation
    assert claimed.deadline_ms - claimed.accepted_ms == 60_000
    await desk.complete(claimed, "Because.", cost=30)
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (70, 0, 30)
    assert await desk.claim() == []
    assert await desk.stage(ticket) == "failed"


async def test_retried_letter_waits_behind_what_its_session_has_under_way(desk: Desk) -> None:
    ticket = await _dies(desk)
    following = await desk.submit("ann", ticket.session)
    told = await desk.revive(ticket)
    assert isinstance(told, Revived)
    head = await desk.claim_one()
    assert head.id == following.id
    assert await desk.claim() == []
    await desk.complete(head)
    assert (await desk.claim_one()).id == told.generation


async def test_retry_that_fails_again_is_a_letter_of_its_own(desk: Desk) -> None:
    ticket = await _dies(desk)
    told = await desk.revive(ticket)
    assert isinstance(told, Revived)
    await desk.fail(await desk.claim_one(), DOWN)
    assert await _listed(desk) == [told.generation]
    again = await desk.revive(Ticket("ann", ticket.session, told.generation))
    assert isinstance(again, Revived)
    await desk.complete(await desk.claim_one())


async def test_retry_is_refused_with_the_reason_and_changes_nothing(desk: Desk) -> None:
    await desk.grant(100)
    ticket = await _dies(desk, hold=100)
    await desk.grant(-30)
    before = await _letter(desk, ticket)
    assert await desk.revive(ticket) == NotRevived("poor", 70)
    await desk.grant(30)
    await desk.submit()
    assert await desk.revive(ticket, unfinished_max=1) == NotRevived("crowded")
    assert await desk.revive(ticket, waiting_max=0) == NotRevived("waiting")
    assert await desk.revive(ticket, total_max=1) == NotRevived("full")
    assert await desk.revive(Ticket("bob", ticket.session, ticket.id)) == NotRevived("unknown")
    where = keys.LETTER(desk.root, "ann", ticket.id)
    kept = await desk.redis.call("HGET", where, "message")
    for broken in (b"", b"\xc1", b"\x01"):
        await desk.redis.call("HSET", where, "message", broken)
        assert await desk.revive(ticket) == NotRevived("unreadable")
    await desk.redis.call("HSET", where, "message", kept)
    assert await _letter(desk, ticket) == before
    assert await _listed(desk) == [ticket.id]
    assert (await desk.books()).balance == 100


async def test_discarded_letter_is_gone(desk: Desk) -> None:
    first, second = await _dies(desk), await _dies(desk)
    stranger = Ticket("bob", first.session, first.id)
    assert await desk.discard(first, stranger) == [True, False]
    assert await desk.discard(first) == [False]
    assert await desk.revive(first) == NotRevived("unknown")
    assert await _listed(desk) == [second.id]
    assert await desk.stage(first) == "failed"


async def test_deleted_session_takes_its_letters_along(desk: Desk) -> None:
    first = await _dies(desk)
    second = await _dies(desk, first.session)
    other = await _dies(desk)
    assert isinstance(await desk.revive(first), Revived)
    assert await desk.delete_session("ann", first.session)
    for ticket in (first, second):
        assert not await _is_dead(desk, ticket)
        assert await desk.revive(ticket) == NotRevived("unknown")
    assert await _listed(desk) == [other.id]
    assert await desk.claim() == []


async def test_letter_outlives_the_record_of_its_generation(desk: Desk) -> None:
    ticket = await _dies(desk)
    await desk.redis.call("DEL", keys.GENERATION(desk.root, "ann", ticket.id))
    assert KEEP.dead_ms > KEEP.record_ms
    assert isinstance(await desk.revive(ticket), Revived)
    assert (await desk.claim_one()).turn == 2


async def test_the_judge_of_every_test_sees_what_is_wrong_with_dead_letters(
    desk: Desk, server: Server, redis_settings: RedisSettings
) -> None:
    kept, retried = await _dies(desk), await _dies(desk)
    assert isinstance(await desk.revive(retried), Revived)
    name, listed = f"ann:{kept.id}", keys.DEAD(desk.root)
    letter, old = (keys.LETTER(desk.root, "ann", each.id) for each in (kept, retried))
    generation = keys.GENERATION(desk.root, "ann", kept.id)
    session = keys.SESSION(desk.root, "ann", kept.session)
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
    with server.look() as look:
        assert ledger.faults(look, redis_settings) == []
        for spoil, mend, word in spoilt:
            await desk.redis.call(*spoil)
            assert any(word in fault for fault in ledger.faults(look, redis_settings)), word
            await desk.redis.call(*mend)
        assert ledger.faults(look, redis_settings) == []
        assert look("EXISTS", old) == 1
