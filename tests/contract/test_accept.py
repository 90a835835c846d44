"""`accept`: a message is taken in completely or not at all."""

import asyncio

import pytest

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import Accepted, Claimed, Rejected, Replayed
from shared.wire.message import decode_user
from tests.support.call_options import AcceptOptions
from tests.support.redis_functions import RedisFunctions, Ticket


async def test_accepted_message_is_there_in_every_place(queue: RedisFunctions) -> None:
    await queue.grant(1_000)
    ticket = await queue.submit(
        content="Grüße 🌍",
        hold=300,
        name="A name",
        system_prompt="Be brief.",
        metadata={"k": "v"},
        model="m1",
    )
    reply = await queue.status(ticket)
    assert (
        reply.record | {"stage": "queued", "turn": "1", "model": "m1", "hold": "300"}
        == reply.record
    )
    assert reply.user_message is not None
    message = decode_user(reply.user_message)
    assert (message.content, message.generation, message.metadata) == (
        "Grüße 🌍",
        ticket.id,
        {"k": "v"},
    )
    session = await queue.redis.call(
        "HMGET", keys.SESSION(queue.root, "ann", ticket.session), "name", "system", "head", "turns"
    )
    assert session == [b"A name", b"Be brief.", ticket.id.encode(), b"1"]
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.granted) == (700, 300, 1_000)


async def test_turns_of_a_session_are_numbered_and_counted(queue: RedisFunctions) -> None:
    first = await queue.accept()
    assert isinstance(first, Accepted)
    assert (first.turn, first.ahead, first.unfinished) == (1, 0, 1)
    ticket = await queue.submit("bob")
    answers = [await queue.accept("bob", ticket.session) for _ in range(3)]
    assert [(a.turn, a.ahead, a.unfinished) for a in answers if isinstance(a, Accepted)] == [
        (2, 1, 2),
        (3, 2, 3),
        (4, 3, 4),
    ]


async def test_same_generation_again_changes_nothing(queue: RedisFunctions) -> None:
    await queue.grant(100)
    generation, session = ids.new_id(), ids.new_id()
    first, again = [
        await queue.accept(session=session, is_new=True, generation=generation, hold=60)
        for _ in range(2)
    ]
    assert isinstance(first, Accepted)
    assert again == Replayed(generation, session)
    assert (await queue.credit_totals()).held == 60
    assert len(await queue.claim(10)) == 1


async def test_same_idempotency_key_finds_the_first_receipt(queue: RedisFunctions) -> None:
    ticket = await queue.submit(idempotency="key", fingerprint="body")
    assert await queue.accept(idempotency="key", fingerprint="body") == Replayed(
        ticket.id, ticket.session
    )
    assert await queue.accept(idempotency="key", fingerprint="other") == Rejected("mismatch")
    assert isinstance(await queue.accept("bob", idempotency="key"), Accepted)


async def test_concurrent_repeats_are_accepted_once(queue: RedisFunctions) -> None:
    answers = await asyncio.gather(*(queue.accept(idempotency="key") for _ in range(20)))
    assert sum(isinstance(answer, Accepted) for answer in answers) == 1
    assert len({answer.generation for answer in answers if isinstance(answer, Replayed)}) == 1


async def test_receipt_of_an_idempotency_key_outlives_the_end(queue: RedisFunctions) -> None:
    ticket = await queue.submit(idempotency="key")
    await queue.complete(await queue.claim_one())
    assert await queue.accept(idempotency="key") == Replayed(ticket.id, ticket.session)


async def test_unknown_session_and_somebody_elses_are_the_same(queue: RedisFunctions) -> None:
    ticket = await queue.submit("ann")
    assert await queue.accept("bob", ticket.session) == Rejected("no_session")
    assert await queue.accept("ann", "nowhere") == Rejected("no_session")


async def test_busy_session_rejects_when_asked_to(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    refused = await queue.accept("ann", ticket.session, on_conflict="reject")
    assert refused == Rejected("busy", ticket.id)
    await queue.complete(await queue.claim_one())
    await queue.submit("ann", ticket.session, on_conflict="reject")


async def test_interrupt_cancels_all_waiting_turns_and_runs_next(queue: RedisFunctions) -> None:
    await queue.grant(100)
    first = await queue.submit(hold=10)
    second = await queue.submit("ann", first.session, hold=10)
    third = await queue.submit("ann", first.session, hold=10, on_conflict="interrupt")
    stages = [await queue.stage(ticket) for ticket in (first, second, third)]
    assert stages == ["cancelled", "cancelled", "queued"]
    assert (await queue.credit_totals()).held == 10
    assert (await queue.claim_one()).id == third.id


async def test_interrupt_asks_a_running_answer_to_stop_and_waits_for_it(
    queue: RedisFunctions,
) -> None:
    first = await queue.submit()
    running = await queue.claim_one()
    second = await queue.submit("ann", first.session, on_conflict="interrupt")
    assert await queue.claim(10) == []
    [stop] = await queue.beat(running)
    assert (stop.id, stop.why) == (first.id, "cancel")
    await queue.settle(running, stage="cancelled")
    assert (await queue.claim_one()).id == second.id


async def test_rate_limit_allows_a_burst_and_returns_when_to_retry(
    queue: RedisFunctions,
) -> None:
    answers = [await queue.accept(per_minute=3) for _ in range(4)]
    rates = [answer.rate for answer in answers if not isinstance(answer, Replayed) and answer.rate]
    assert [rate.remaining for rate in rates] == [2, 1, 0, 0]
    refused = answers[3]
    assert isinstance(refused, Rejected)
    assert refused.reason == "limited"
    assert refused.rate is not None
    assert 15_000 < refused.rate.retry_ms <= 20_000
    assert 55_000 < refused.rate.reset_ms <= 60_000
    assert isinstance(await queue.accept("bob", per_minute=3), Accepted)


async def test_rate_limit_refills_as_time_passes(queue: RedisFunctions) -> None:
    for _ in range(3):
        await queue.accept(per_minute=3)
    where = keys.SUBMISSIONS(queue.root, "ann")
    arrival = int(await queue.redis.call("GET", where))
    # As if one interval of twenty seconds had passed.
    await queue.redis.call("SET", where, arrival - 20_000_000, "KEEPTTL")
    assert isinstance(await queue.accept(per_minute=3), Accepted)
    refused = await queue.accept(per_minute=3)
    assert isinstance(refused, Rejected)
    assert refused.reason == "limited"


@pytest.mark.parametrize(
    ("bound", "reason"), [("unfinished_max", "crowded"), ("total_max", "full")]
)
async def test_limits_of_unfinished_generations_hold(
    queue: RedisFunctions, bound: str, reason: str
) -> None:
    async def accept() -> object:
        if bound == "total_max":
            return await queue.accept(total_max=2)
        return await queue.accept(unfinished_max=2)

    await accept()
    await accept()
    refused = await accept()
    assert isinstance(refused, Rejected)
    assert refused.reason == reason
    await queue.complete(await queue.claim_one())
    assert isinstance(await accept(), Accepted)


async def test_turns_waiting_in_a_session_are_limited_and_an_interrupt_ends_them(
    queue: RedisFunctions,
) -> None:
    first = await queue.submit(waiting_max=2)
    for _ in range(2):
        await queue.submit("ann", first.session, waiting_max=2)
    refused = await queue.accept("ann", first.session, waiting_max=2)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.rate is not None) == ("waiting", True)
    assert isinstance(await queue.accept(waiting_max=2), Accepted)
    interrupt = await queue.submit("ann", first.session, waiting_max=2, on_conflict="interrupt")
    assert [await queue.stage(one) for one in (first, interrupt)] == ["cancelled", "queued"]


async def test_interrupt_needs_no_more_room_than_what_it_replaces(queue: RedisFunctions) -> None:
    first = await queue.submit(unfinished_max=3)
    await queue.claim_one()
    for _ in range(2):
        await queue.submit("ann", first.session, unfinished_max=3)
    assert isinstance(await queue.accept(unfinished_max=3), Rejected)
    for _ in range(3):
        await queue.submit("ann", first.session, unfinished_max=3, on_conflict="interrupt")
    await queue.submit(unfinished_max=3)
    # One turn takes their place, beside the one that was asked to stop.
    refused = await queue.accept(unfinished_max=3)
    assert isinstance(refused, Rejected)
    assert refused.reason == "crowded"


async def test_too_few_credits_store_nothing(queue: RedisFunctions) -> None:
    await queue.grant(99)
    refused = await queue.accept(hold=100)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.about) == ("poor", "99")
    assert await queue.claim(10) == []
    assert (await queue.credit_totals()).balance == 99
    assert await queue.redis.call("EXISTS", keys.SESSIONS(queue.root, "ann")) == 0


async def test_large_numbers_keep_every_digit(queue: RedisFunctions) -> None:
    amount = 9_007_199_254_740_991
    assert await queue.grant(amount) == amount
    await queue.submit(hold=100_000_000_000_001)
    credit_totals = await queue.credit_totals()
    assert credit_totals.held == 100_000_000_000_001
    assert credit_totals.balance == amount - 100_000_000_000_001


async def test_interrupt_is_paid_for_by_the_holds_that_it_frees(queue: RedisFunctions) -> None:
    await queue.grant(100)
    first = await queue.submit(hold=60)
    await queue.submit("ann", first.session, hold=30)
    refused = await queue.accept("ann", first.session, hold=101, on_conflict="interrupt")
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.about) == ("poor", "100")
    await queue.submit("ann", first.session, hold=90, on_conflict="interrupt")
    assert await queue.stage(first) == "cancelled"
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held) == (10, 90)


async def _answer_for(queue: RedisFunctions, cost: int) -> tuple[Ticket, Claimed]:
    """Have a message answered under a hold of 60, of which so much is due for the text so far."""
    await queue.grant(100)
    first = await queue.submit(hold=60)
    running = await queue.claim_one()
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
    assert await functions.append(queue.redis, queue.root, ask) == "appended"
    return first, running


async def test_hold_of_an_answer_pays_for_its_interrupt_less_the_text_so_far(
    queue: RedisFunctions,
) -> None:
    first, running = await _answer_for(queue, 15)
    refused = await queue.accept("ann", first.session, hold=86, on_conflict="interrupt")
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.about) == ("poor", "85")
    assert await queue.stage(first) == "generating"
    second = await queue.submit("ann", first.session, hold=85, on_conflict="interrupt")
    ended = await queue.status(first)
    assert (ended.record["stage"], ended.record["captured"]) == ("cancelled", "15")
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (0, 85, 15)
    # Its worker can no longer append, nor settle it a second time.
    assert await queue.append(running, 2, "more") == "refused"
    assert await queue.settle(running, seq=2, cost=60, text="Half and more") is None
    claimed = await queue.claim_one()
    assert claimed.id == second.id
    await queue.complete(claimed, cost=5)
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held, credit_totals.settled) == (80, 0, 20)


async def test_answer_is_only_asked_to_stop_where_credits_suffice_without_its_hold(
    queue: RedisFunctions,
) -> None:
    first, running = await _answer_for(queue, 15)
    await queue.submit("ann", first.session, hold=40, on_conflict="interrupt")
    assert await queue.stage(first) == "generating"
    assert await queue.append(running, 2, "more") == "cancel"
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held) == (0, 100)


async def test_answer_that_ends_for_its_hold_no_longer_counts_in_the_next_turns(
    queue: RedisFunctions,
) -> None:
    await queue.grant(200)
    first = await queue.submit(hold=150, added=50, input_price=1.0, history_max=1_000)
    await queue.claim_one()
    asks: AcceptOptions = {"hold": 100, "added": 20, "input_price": 1.0, "history_max": 1_000}
    ends: AcceptOptions = {**asks, "on_conflict": "interrupt"}
    second = await queue.submit("ann", first.session, **ends)
    # The history is estimated with what the answer might still add.
    assert (await queue.status(second)).record["hold"] == "150"
    session = keys.SESSION(queue.root, "ann", first.session)
    assert await queue.redis.call("HGET", session, "pending") == b"20"


async def test_hold_of_a_later_turn_includes_an_answer_that_an_interrupt_has_not_ended_yet(
    queue: RedisFunctions,
) -> None:
    """The answer that was asked to stop ends later, and subtracts only what it had added."""
    await queue.grant(1_000)
    first = await queue.submit(hold=10, added=100, input_price=1.0, history_max=1_000)
    waits: AcceptOptions = {"hold": 10, "added": 50, "input_price": 1.0, "history_max": 1_000}
    await queue.submit("ann", first.session, **waits)
    running = await queue.claim_one()
    ends: AcceptOptions = {**waits, "on_conflict": "interrupt"}
    second = await queue.submit("ann", first.session, **ends)
    session = keys.SESSION(queue.root, "ann", first.session)
    assert await queue.redis.call("HGET", session, "pending") == b"150"
    # The interrupted answer may still complete, and would then be sent with the second message.
    assert (await queue.status(second)).record["hold"] == "110"
    await queue.settle(running, stage="cancelled")
    assert await queue.redis.call("HGET", session, "pending") == b"50"
    third = await queue.submit("ann", first.session, **waits)
    assert (await queue.status(third)).record["hold"] == "60"
    fourth = await queue.submit("ann", third.session, **ends)
    assert (await queue.status(fourth)).record["hold"] == "10"
