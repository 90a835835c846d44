"""Claims whose replies were lost: what they took is given back, and is nobody's crash."""

from tests.support.desk import Desk


async def test_what_a_claim_took_that_nobody_heard_of_is_given_back(desk: Desk) -> None:
    tickets = [await desk.submit() for _ in range(3)]
    heard, *unheard = [(await desk.claim(number=number))[0] for number in (1, 2, 3)]
    other = await desk.submit()
    theirs = (await desk.claim(worker="worker-2", number=2))[0]
    again = await desk.claim(9, number=4, unheard=[2, 3])
    assert [(one.id, one.attempt) for one in again] == [(one.id, 2) for one in unheard]
    assert await desk.beat(heard, theirs, *again) == []
    assert [theirs.id, *[one.id for one in (heard, *unheard)]] == [
        other.id,
        *[ticket.id for ticket in tickets],
    ]
    for one in (heard, theirs, *again):
        assert await desk.complete(one)
    assert await desk.claim(9, number=5, unheard=[2, 3]) == []


async def test_what_nobody_heard_of_counts_for_no_crash(desk: Desk) -> None:
    ticket = await desk.submit()
    for number in range(1, 9):
        [claimed] = await desk.claim(number=number, unheard=[number - 1])
        assert claimed.attempt == number
    assert "crashes" not in (await desk.status(ticket)).record
    [claimed] = await desk.claim(number=9, unheard=[8])
    await desk.complete(claimed)
    assert await desk.stage(ticket) == "completed"


async def test_what_nobody_heard_of_and_was_cancelled_has_ended(desk: Desk) -> None:
    ticket = await desk.submit()
    await desk.claim(number=1)
    await desk.cancel(ticket)
    assert await desk.claim(number=2, unheard=[1]) == []
    assert await desk.stage(ticket) == "cancelled"
