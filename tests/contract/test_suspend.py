"""A generation that waits for a person: no worker, no lost time, one place, one end."""

import pytest

from shared.errors import StoreError
from shared.redis import functions, keys
from shared.redis.functions import Cancelled, Claimed
from shared.stores import generations
from shared.wire.generation import Generation
from tests.support.redis_functions import KEEP, LONG_MS, RedisFunctions, Ticket

DAY_MS = 86_400_000


async def _suspended(
    queue: RedisFunctions, *, wait_ms: int = DAY_MS, session: str | None = None, wire: int = 1
) -> tuple[Ticket, Claimed]:
    await queue.grant(100)
    ticket = await queue.submit("ann", session, hold=50, wire=wire)
    [claimed] = await queue.claim(wire=wire)
    assert await queue.suspend(claimed, 1, wait_ms, text="Let me ask. ", cost=7) == "suspended"
    return ticket, claimed


async def _score(queue: RedisFunctions, family: keys.Key, ticket: Ticket) -> int | None:
    found = await queue.redis.call("ZSCORE", family(queue.root), f"{ticket.account}:{ticket.id}")
    return None if found is None else int(found)


async def _move_to_past(queue: RedisFunctions, family: keys.Key, ticket: Ticket) -> None:
    await queue.redis.call("ZADD", family(queue.root), "XX", 1, f"{ticket.account}:{ticket.id}")


async def _poll(queue: RedisFunctions, ticket: Ticket) -> Generation:
    found = await generations.find(queue.redis, queue.root, ticket.account, ticket.id)
    assert found is not None
    return found


async def _running(queue: RedisFunctions) -> int:
    where = keys.ACCOUNT_TOTALS(queue.root, "ann")
    return int(await queue.redis.call("HGET", where, "running_interactive") or 0)


async def test_a_suspended_generation_has_no_worker(queue: RedisFunctions) -> None:
    ticket, claimed = await _suspended(queue)
    polled = await _poll(queue, ticket)
    assert (polled.stage, polled.state) == ("awaiting_approval", "processing")
    assert (polled.position, polled.retry_in_seconds, polled.unfinished) == (None, 0, 1)
    assert polled.text == "Let me ask. "
    assert await _running(queue) == 0
    assert await _score(queue, keys.LEASES, ticket) is None
    assert await queue.claim() == []
    assert (await queue.reap()).done == []
    [stop] = await queue.beat(claimed)
    assert stop.why == "lost"
    assert await queue.append(claimed, 3, "late") == "refused"
    assert await queue.settle(claimed, seq=3) is None
    assert (await queue.events(ticket))[-1] == (
        "1-2",
        '{"type":"stage","stage":"awaiting_approval"}',
    )


async def test_a_repeated_suspend_changes_nothing(queue: RedisFunctions) -> None:
    ticket, claimed = await _suspended(queue)
    before = (await queue.status(ticket)).record, await queue.events(ticket)
    assert await queue.suspend(claimed, 1, LONG_MS, text="Let me ask. ", cost=7) == "suspended"
    assert ((await queue.status(ticket)).record, await queue.events(ticket)) == before
    assert await queue.rounds(ticket) == ["{}"]


async def test_the_wait_does_not_count_against_the_deadline(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue)
    waits_until = await _score(queue, keys.DEFERRED, ticket)
    polled = await _poll(queue, ticket)
    assert waits_until is not None
    assert polled.deadline is not None
    assert 0 < polled.deadline - waits_until <= LONG_MS
    assert polled.deadline == await _score(queue, keys.DEADLINES, ticket)
    left_ms = polled.deadline - waits_until
    assert await queue.resume(ticket) == "resumed"
    polled = await _poll(queue, ticket)
    assert polled.deadline is not None
    assert 0 <= polled.seen - (polled.deadline - left_ms) < DAY_MS / 2
    assert polled.deadline == await _score(queue, keys.DEADLINES, ticket)
    assert not polled.is_past_deadline


async def test_a_resumed_generation_goes_on_from_its_rounds(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue)
    later = await queue.submit()
    for expected in ("resumed", "not_suspended", "not_suspended"):
        assert await queue.resume(ticket) == expected
    assert await queue.shown_stage(ticket) == "queued"
    assert [event for _, event in await queue.events(ticket)][2:] == [
        '{"type":"stage","stage":"queued"}'
    ]
    # It comes before what its account has sent since.
    first, second = await queue.claim(2)
    assert (first.id, second.id) == (ticket.id, later.id)
    assert first.attempt == 2
    assert first.kept is not None
    assert (first.kept.rounds, first.retries, first.calls) == (1, 0, 0)
    record = (await queue.status(ticket)).record
    assert not {"drains", "crashes", "falls", "retries", "suspended", "finer_stage"} & record.keys()
    assert await queue.resume(ticket) == "not_suspended"
    assert await queue.suspend(first, 2, text="Again.") == "suspended"


async def test_resume_wakes_a_worker_that_can_read_it(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue, wire=4)
    wakeups = keys.WAKEUP_FOR(queue.root, "interactive", "wire|4")
    assert await queue.redis.call("LLEN", wakeups) == 0
    await queue.resume(ticket)
    assert await queue.redis.call("LLEN", wakeups) == 1
    assert await queue.claim(wire=3) == []
    assert [one.id for one in await queue.claim(wire=4)] == [ticket.id]


async def test_a_wait_ends_by_itself(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue, wait_ms=0)
    deadline = (await _poll(queue, ticket)).deadline
    await queue.reap()
    polled = await _poll(queue, ticket)
    assert (polled.stage, polled.deadline) == ("queued", deadline)
    assert await queue.resume(ticket) == "not_suspended"
    assert (await _poll(queue, ticket)).deadline == deadline
    assert (await queue.claim_one()).id == ticket.id


async def test_the_next_turns_of_its_session_wait(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue)
    following = await queue.submit("ann", ticket.session)
    assert await queue.claim() == []
    await queue.resume(ticket)
    await queue.complete(await queue.claim_one())
    assert (await queue.claim_one()).id == following.id


async def test_turns_of_other_sessions_are_not_behind_it(queue: RedisFunctions) -> None:
    await _suspended(queue)
    await _suspended(queue)
    other = await queue.submit()
    assert (await _poll(queue, other)).ahead == 0
    answer = await queue.accept()
    assert isinstance(answer, functions.Accepted)
    assert (answer.ahead, answer.unfinished) == (1, 4)


async def test_it_counts_as_unfinished(queue: RedisFunctions) -> None:
    await _suspended(queue)
    answer = await queue.accept(unfinished_max=1)
    assert isinstance(answer, functions.Rejected)
    assert answer.reason == "crowded"


async def test_it_frees_its_account_for_others(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(running_max=1)
    other = await queue.submit(running_max=1)
    claimed = await queue.claim_one()
    assert await queue.claim() == []
    await queue.suspend(claimed, 1)
    running = await queue.claim_one()
    assert running.id == other.id
    await queue.resume(ticket)
    assert await queue.claim() == []
    await queue.complete(running)
    assert (await queue.claim_one()).id == ticket.id


@pytest.mark.parametrize("end", ["cancel", "delete", "interrupt", "expire", "reap"])
async def test_whoever_ends_it_charges_what_was_shown(queue: RedisFunctions, end: str) -> None:
    ticket, _ = await _suspended(queue)
    match end:
        case "cancel":
            assert await queue.cancel(ticket) == Cancelled(43)
        case "delete":
            await queue.submit("ann", ticket.session)
            await queue.delete_session("ann", ticket.session)
        case "interrupt":
            await queue.submit("ann", ticket.session, on_conflict="interrupt")
        case "expire":
            where = keys.GENERATION(queue.root, "ann", ticket.id)
            await queue.redis.call("HSET", where, "deadline", 1)
            ask = functions.ExpireAsk(account="ann", id=ticket.id, keep=KEEP)
            assert await functions.expire(queue.redis, queue.root, ask)
        case _:
            await _move_to_past(queue, keys.DEADLINES, ticket)
            assert [what for _, _, what in (await queue.reap()).done] == ["expired"]
    totals = await queue.credit_totals()
    assert (totals.settled, totals.held) == (7, 0)
    assert await queue.rounds(ticket) == []
    assert await _score(queue, keys.DEFERRED, ticket) is None
    assert await _score(queue, keys.DEADLINES, ticket) is None
    assert await queue.resume(ticket) in {"not_suspended", "unknown"}


async def test_a_pending_cancel_ends_it_at_once(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=50)
    claimed = await queue.claim_one()
    assert await queue.cancel(ticket) == Cancelled(None)
    assert await queue.suspend(claimed, 1, text="Let me ask. ", cost=7) == "cancelled"
    polled = await _poll(queue, ticket)
    assert (polled.stage, polled.text) == ("cancelled", "Let me ask. ")
    assert (await queue.credit_totals()).settled == 7
    assert await queue.rounds(ticket) == []


async def test_only_the_holder_of_the_token_suspends(queue: RedisFunctions) -> None:
    ticket, claimed = await _suspended(queue)
    await queue.resume(ticket)
    assert await queue.suspend(claimed, 1) == "refused"
    again = await queue.claim_one()
    assert await queue.suspend(claimed, 1) == "refused"
    assert await queue.shown_stage(ticket) == "routing"
    assert await queue.suspend(again, 2) == "suspended"


async def test_an_expired_generation_is_not_suspended(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    where = keys.GENERATION(queue.root, "ann", ticket.id)
    await queue.redis.call("HSET", where, "deadline", 1)
    await _move_to_past(queue, keys.DEADLINES, ticket)
    assert await queue.suspend(claimed, 1) == "refused"
    assert [what for _, _, what in (await queue.reap()).done] == ["expired"]


async def test_suspend_from_a_stage_that_the_table_lacks_is_refused(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    claimed = await queue.claim_one()
    ask = functions.SuspendAsk(
        account="ann", id=ticket.id, attempt=1, seq=1, events=[], until_ms=1, keep=KEEP
    )
    with pytest.raises(StoreError):
        await functions.suspend(queue.redis, queue.root, ask)
    assert await queue.complete(claimed)


async def test_what_older_processes_read_they_know(queue: RedisFunctions) -> None:
    """A stage that is not in their table would be damage to them, which ends a generation."""
    ticket, _ = await _suspended(queue)
    assert await queue.stage(ticket) == "retrying"
    assert await queue.shown_stage(ticket) == "awaiting_approval"


async def test_a_wait_that_an_older_process_ended_leaves_nothing_behind(
    queue: RedisFunctions,
) -> None:
    """Its reap moves the generation, and changes nothing else."""
    ticket, _ = await _suspended(queue, wait_ms=0)
    number = (await queue.status(ticket)).record["number"]
    await queue.redis.call("ZREM", keys.DEFERRED(queue.root), f"ann:{ticket.id}")
    ready = keys.READY(queue.root, "ann", "interactive")
    await queue.redis.call("ZADD", ready, number, ticket.id)
    await queue.redis.call("ZADD", keys.LANE(queue.root, "interactive"), 0, "ann")
    assert await queue.resume(ticket) == "not_suspended"
    assert (await queue.claim_one()).id == ticket.id
    assert not {"finer_stage", "suspended"} & (await queue.status(ticket)).record.keys()
    unfinished = keys.UNFINISHED(queue.root, "ann", "interactive")
    assert int(await queue.redis.call("ZSCORE", unfinished, ticket.id)) == int(number)


async def test_restore_puts_it_back_where_it_waits(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue)
    waits_until = await _score(queue, keys.DEFERRED, ticket)
    await queue.redis.call("DEL", keys.DEFERRED(queue.root))
    ask = functions.RestoreAsk(names=(("ann", ticket.id),), lease_ms=LONG_MS)
    assert await functions.restore(queue.redis, queue.root, ask) == 1
    assert await _score(queue, keys.DEFERRED, ticket) == waits_until
    assert await functions.restore(queue.redis, queue.root, ask) == 0
    assert await queue.claim() == []


async def test_a_damaged_wait_is_set_aside(queue: RedisFunctions) -> None:
    ticket, _ = await _suspended(queue)
    where = keys.GENERATION(queue.root, "ann", ticket.id)
    await queue.redis.call("HSET", where, "suspended", "long")
    assert await queue.resume(ticket) == "not_suspended"
    assert await queue.stage(ticket) == "failed"
    assert (await queue.credit_totals()).held == 0
    assert await queue.rounds(ticket) == []
