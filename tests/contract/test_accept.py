"""`accept`: one message goes in whole, or nothing of it does."""

import asyncio

import pytest

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import Accepted, Claimed, NotAccepted, Replayed
from shared.wire.message import decode_user
from tests.support.desk import Desk, Ticket
from tests.support.wishes import Wish


async def test_accepted_message_is_there_in_every_place(desk: Desk) -> None:
    await desk.grant(1_000)
    ticket = await desk.submit(
        content="Grüße 🌍",
        hold=300,
        name="A name",
        system_prompt="Be brief.",
        metadata={"k": "v"},
        model="m1",
    )
    look = await desk.status(ticket)
    assert (
        look.record | {"stage": "queued", "turn": "1", "model": "m1", "hold": "300"} == look.record
    )
    assert look.user_message is not None
    said = decode_user(look.user_message)
    assert (said.content, said.generation, said.metadata) == ("Grüße 🌍", ticket.id, {"k": "v"})
    session = await desk.redis.call(
        "HMGET", keys.SESSION(desk.root, "ann", ticket.session), "name", "system", "head", "turns"
    )
    assert session == [b"A name", b"Be brief.", ticket.id.encode(), b"1"]
    books = await desk.books()
    assert (books.balance, books.held, books.granted) == (700, 300, 1_000)


async def test_turns_of_a_session_are_numbered_and_counted(desk: Desk) -> None:
    first = await desk.accept()
    assert isinstance(first, Accepted)
    assert (first.turn, first.ahead, first.unfinished) == (1, 0, 1)
    ticket = await desk.submit("bob")
    answers = [await desk.accept("bob", ticket.session) for _ in range(3)]
    assert [(a.turn, a.ahead, a.unfinished) for a in answers if isinstance(a, Accepted)] == [
        (2, 1, 2),
        (3, 2, 3),
        (4, 3, 4),
    ]


async def test_same_generation_again_changes_nothing(desk: Desk) -> None:
    await desk.grant(100)
    generation, session = ids.new_id(), ids.new_id()
    first, again = [
        await desk.accept(session=session, is_new=True, generation=generation, hold=60)
        for _ in range(2)
    ]
    assert isinstance(first, Accepted)
    assert again == Replayed(generation, session)
    assert (await desk.books()).held == 60
    assert len(await desk.claim(10)) == 1


async def test_same_idempotency_key_finds_the_first_receipt(desk: Desk) -> None:
    ticket = await desk.submit(idempotency="key", fingerprint="body")
    assert await desk.accept(idempotency="key", fingerprint="body") == Replayed(
        ticket.id, ticket.session
    )
    assert await desk.accept(idempotency="key", fingerprint="other") == NotAccepted("mismatch")
    assert isinstance(await desk.accept("bob", idempotency="key"), Accepted)


async def test_concurrent_repeats_are_accepted_once(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.accept(idempotency="key") for _ in range(20)))
    assert sum(isinstance(answer, Accepted) for answer in answers) == 1
    assert len({answer.generation for answer in answers if isinstance(answer, Replayed)}) == 1


async def test_receipt_of_an_idempotency_key_outlives_the_end(desk: Desk) -> None:
    ticket = await desk.submit(idempotency="key")
    await desk.complete(await desk.claim_one())
    assert await desk.accept(idempotency="key") == Replayed(ticket.id, ticket.session)


async def test_unknown_session_and_somebody_elses_are_the_same(desk: Desk) -> None:
    ticket = await desk.submit("ann")
    assert await desk.accept("bob", ticket.session) == NotAccepted("no_session")
    assert await desk.accept("ann", "nowhere") == NotAccepted("no_session")


async def test_busy_session_rejects_when_asked_to(desk: Desk) -> None:
    ticket = await desk.submit()
    refused = await desk.accept("ann", ticket.session, on_conflict="reject")
    assert refused == NotAccepted("busy", ticket.id)
    await desk.complete(await desk.claim_one())
    await desk.submit("ann", ticket.session, on_conflict="reject")


async def test_interrupt_cancels_all_that_waits_and_runs_next(desk: Desk) -> None:
    await desk.grant(100)
    first = await desk.submit(hold=10)
    second = await desk.submit("ann", first.session, hold=10)
    third = await desk.submit("ann", first.session, hold=10, on_conflict="interrupt")
    stages = [await desk.stage(ticket) for ticket in (first, second, third)]
    assert stages == ["cancelled", "cancelled", "queued"]
    assert (await desk.books()).held == 10
    assert (await desk.claim_one()).id == third.id


async def test_interrupt_asks_a_running_answer_to_stop_and_waits_for_it(desk: Desk) -> None:
    first = await desk.submit()
    running = await desk.claim_one()
    second = await desk.submit("ann", first.session, on_conflict="interrupt")
    assert await desk.claim(10) == []
    [stop] = await desk.beat(running)
    assert (stop.id, stop.why) == (first.id, "cancel")
    await desk.settle(running, stage="cancelled")
    assert (await desk.claim_one()).id == second.id


async def test_rate_limit_lets_a_burst_through_and_says_when_to_come_back(desk: Desk) -> None:
    answers = [await desk.accept(per_minute=3) for _ in range(4)]
    rates = [answer.rate for answer in answers if not isinstance(answer, Replayed) and answer.rate]
    assert [rate.remaining for rate in rates] == [2, 1, 0, 0]
    refused = answers[3]
    assert isinstance(refused, NotAccepted)
    assert refused.reason == "limited"
    assert refused.rate is not None
    assert 15_000 < refused.rate.retry_ms <= 20_000
    assert 55_000 < refused.rate.reset_ms <= 60_000
    assert isinstance(await desk.accept("bob", per_minute=3), Accepted)


async def test_rate_limit_fills_up_as_time_passes(desk: Desk) -> None:
    for _ in range(3):
        await desk.accept(per_minute=3)
    where = keys.SUBMISSIONS(desk.root, "ann")
    arrival = int(await desk.redis.call("GET", where))
    # As if it were one interval of twenty seconds later.
    await desk.redis.call("SET", where, arrival - 20_000_000, "KEEPTTL")
    assert isinstance(await desk.accept(per_minute=3), Accepted)
    refused = await desk.accept(per_minute=3)
    assert isinstance(refused, NotAccepted)
    assert refused.reason == "limited"


@pytest.mark.parametrize(
    ("bound", "reason"), [("unfinished_max", "crowded"), ("total_max", "full")]
)
async def test_bounds_on_unfinished_work_hold(desk: Desk, bound: str, reason: str) -> None:
    async def accept() -> object:
        if bound == "total_max":
            return await desk.accept(total_max=2)
        return await desk.accept(unfinished_max=2)

    await accept()
    await accept()
    refused = await accept()
    assert isinstance(refused, NotAccepted)
    assert refused.reason == reason
    await desk.complete(await desk.claim_one())
    assert isinstance(await accept(), Accepted)


async def test_so_many_wait_in_a_session_at_most_and_an_interrupt_ends_them(desk: Desk) -> None:
    first = await desk.submit(waiting_max=2)
    for _ in range(2):
        await desk.submit("ann", first.session, waiting_max=2)
    refused = await desk.accept("ann", first.session, waiting_max=2)
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.rate is not None) == ("waiting", True)
    assert isinstance(await desk.accept(waiting_max=2), Accepted)
    interrupt = await desk.submit("ann", first.session, waiting_max=2, on_conflict="interrupt")
    assert [await desk.stage(one) for one in (first, interrupt)] == ["cancelled", "queued"]


async def test_interrupt_needs_no_more_room_than_what_it_replaces(desk: Desk) -> None:
    first = await desk.submit(unfinished_max=3)
    await desk.claim_one()
    for _ in range(2):
        await desk.submit("ann", first.session, unfinished_max=3)
    assert isinstance(await desk.accept(unfinished_max=3), NotAccepted)
    for _ in range(3):
        await desk.submit("ann", first.session, unfinished_max=3, on_conflict="interrupt")
    await desk.submit(unfinished_max=3)
    # Their place is taken by one, beside what was told to stop.
    refused = await desk.accept(unfinished_max=3)
    assert isinstance(refused, NotAccepted)
    assert refused.reason == "crowded"


async def test_too_few_credits_store_nothing(desk: Desk) -> None:
    await desk.grant(99)
    refused = await desk.accept(hold=100)
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.about) == ("poor", "99")
    assert await desk.claim(10) == []
    assert (await desk.books()).balance == 99
    assert await desk.redis.call("EXISTS", keys.SESSIONS(desk.root, "ann")) == 0


async def test_large_numbers_keep_every_digit(desk: Desk) -> None:
    amount = 9_007_199_254_740_991
    assert await desk.grant(amount) == amount
    await desk.submit(hold=100_000_000_000_001)
    books = await desk.books()
    assert books.held == 100_000_000_000_001
    assert books.balance == amount - 100_000_000_000_001


async def test_interrupt_is_paid_for_by_the_holds_that_it_frees(desk: Desk) -> None:
    await desk.grant(100)
    first = await desk.submit(hold=60)
    await desk.submit("ann", first.session, hold=30)
    refused = await desk.accept("ann", first.session, hold=101, on_conflict="interrupt")
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.about) == ("poor", "100")
    await desk.submit("ann", first.session, hold=90, on_conflict="interrupt")
    assert await desk.stage(first) == "cancelled"
    books = await desk.books()
    assert (books.balance, books.held) == (10, 90)


async def _answer_for(desk: Desk, cost: int) -> tuple[Ticket, Claimed]:
    """Have a message answered under a hold of 60, of which so much is due for what was shown."""
    await desk.grant(100)
    first = await desk.submit(hold=60)
    running = await desk.claim_one()
    ask = functions.AppendAsk(
        account="ann",
        id=running.id,
        attempt=running.attempt,
        seq=1,
        events=['{"type":"delta","text":"Half"}'],
        text="Half",
        stage="generating",
        bill=f"{running.attempt} {cost} 7 3 0 0 0 alpha",
    )
    assert await functions.append(desk.redis, desk.root, ask) == "appended"
    return first, running


async def test_hold_of_an_answer_pays_for_its_interrupt_less_what_was_shown(desk: Desk) -> None:
    first, running = await _answer_for(desk, 15)
    refused = await desk.accept("ann", first.session, hold=86, on_conflict="interrupt")
    assert isinstance(refused, NotAccepted)
    assert (refused.reason, refused.about) == ("poor", "85")
    assert await desk.stage(first) == "generating"
    second = await desk.submit("ann", first.session, hold=85, on_conflict="interrupt")
    ended = await desk.status(first)
    assert (ended.record["stage"], ended.record["captured"]) == ("cancelled", "15")
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (0, 85, 15)
    # Its worker writes nothing any more, and settles nothing a second time.
    assert await desk.append(running, 2, "more") == "refused"
    assert await desk.settle(running, seq=2, cost=60, text="Half and more") is None
    claimed = await desk.claim_one()
    assert claimed.id == second.id
    await desk.complete(claimed, cost=5)
    books = await desk.books()
    assert (books.balance, books.held, books.settled) == (80, 0, 20)


async def test_answer_is_only_asked_to_stop_where_credits_suffice_without_its_hold(
    desk: Desk,
) -> None:
    first, running = await _answer_for(desk, 15)
    await desk.submit("ann", first.session, hold=40, on_conflict="interrupt")
    assert await desk.stage(first) == "generating"
    assert await desk.append(running, 2, "more") == "cancel"
    books = await desk.books()
    assert (books.balance, books.held) == (0, 100)


async def test_answer_that_ends_for_its_hold_counts_no_more_in_the_next_turns(desk: Desk) -> None:
    await desk.grant(200)
    first = await desk.submit(hold=150, added=50, input_price=1.0, history_max=1_000)
    await desk.claim_one()
    asks: Wish = {"hold": 100, "added": 20, "input_price": 1.0, "history_max": 1_000}
    ends: Wish = {**asks, "on_conflict": "interrupt"}
    second = await desk.submit("ann", first.session, **ends)
    # It is weighed with what the answer might still have added.
    assert (await desk.status(second)).record["hold"] == "150"
    session = keys.SESSION(desk.root, "ann", first.session)
    assert await desk.redis.call("HGET", session, "pending") == b"20"


async def test_hold_of_a_later_turn_counts_what_goes_on_after_an_interrupt(desk: Desk) -> None:
    """The answer that was asked to stop ends later, and takes off only what it had added."""
    await desk.grant(1_000)
    first = await desk.submit(hold=10, added=100, input_price=1.0, history_max=1_000)
    waits: Wish = {"hold": 10, "added": 50, "input_price": 1.0, "history_max": 1_000}
    await desk.submit("ann", first.session, **waits)
    running = await desk.claim_one()
    ends: Wish = {**waits, "on_conflict": "interrupt"}
    second = await desk.submit("ann", first.session, **ends)
    session = keys.SESSION(desk.root, "ann", first.session)
    assert await desk.redis.call("HGET", session, "pending") == b"150"
    # The interrupted answer may still be complete, and would be sent with the second.
    assert (await desk.status(second)).record["hold"] == "110"
    await desk.settle(running, stage="cancelled")
    assert await desk.redis.call("HGET", session, "pending") == b"50"
    third = await desk.submit("ann", first.session, **waits)
    assert (await desk.status(third)).record["hold"] == "60"
    fourth = await desk.submit("ann", third.session, **ends)
    assert (await desk.status(fourth)).record["hold"] == "10"
