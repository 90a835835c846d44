"""Claims whose replies were lost: their turns are queued again, and no crash is counted."""

from tests.support.redis_functions import RedisFunctions


async def test_turns_of_an_unacknowledged_claim_are_requeued(queue: RedisFunctions) -> None:
    tickets = [await queue.submit() for _ in range(3)]
    acknowledged, *unacknowledged = [(await queue.claim(number=number))[0] for number in (1, 2, 3)]
    other = await queue.submit()
    theirs = (await queue.claim(worker="worker-2", number=2))[0]
    again = await queue.claim(9, number=4, unacknowledged=[2, 3])
    assert [(one.id, one.attempt) for one in again] == [(one.id, 2) for one in unacknowledged]
    assert await queue.beat(acknowledged, theirs, *again) == []
    assert [theirs.id, *[one.id for one in (acknowledged, *unacknowledged)]] == [
        other.id,
        *[ticket.id for ticket in tickets],
    ]
    for one in (acknowledged, theirs, *again):
        assert await queue.complete(one)
    assert await queue.claim(9, number=5, unacknowledged=[2, 3]) == []


async def test_unacknowledged_claim_counts_no_crash(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    for number in range(1, 9):
        [claimed] = await queue.claim(number=number, unacknowledged=[number - 1])
        assert claimed.attempt == number
    assert "crashes" not in (await queue.status(ticket)).record
    [claimed] = await queue.claim(number=9, unacknowledged=[8])
    await queue.complete(claimed)
    assert await queue.stage(ticket) == "completed"


async def test_cancelled_turn_of_an_unacknowledged_claim_has_ended(queue: RedisFunctions) -> None:
    ticket = await queue.submit()
    await queue.claim(number=1)
    await queue.cancel(ticket)
    assert await queue.claim(number=2, unacknowledged=[1]) == []
    assert await queue.stage(ticket) == "cancelled"
