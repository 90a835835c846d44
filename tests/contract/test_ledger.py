"""The ledger and daily usage: written with the totals, once for each change, never changed."""

import asyncio

import pytest

from shared.errors import StoreError
from shared.redis import keys
from shared.redis.client import Argument, Connection, Reply
from shared.redis.functions import Accepted, Meter, Rejected
from shared.stores import ledger
from shared.stores.ledger import Entry, UsageTotals
from tests.support.redis_functions import RedisFunctions

_METER = Meter(model="m/1", input=30, output=12, reasoning=5)


class _Counting:
    """A connection that counts its commands."""

    def __init__(self, redis: Connection) -> None:
        self._redis = redis
        self.calls = 0

    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        """Count and send a command."""
        self.calls += 1
        return await self._redis.call(*command, repeat=repeat)

    def send(self, *command: Argument) -> None:
        """Count and send a command without waiting for its reply."""
        self.calls += 1
        self._redis.send(*command)


async def _entries(queue: RedisFunctions, account: str = "ann") -> list[Entry]:
    return [line.entry for line in await ledger.last(queue.redis, queue.root, account, 100)]


async def _use(queue: RedisFunctions) -> dict[tuple[str, str], UsageTotals]:
    """Return today's usage, and yesterday's in case the day has just changed."""
    seconds, _ = await queue.redis.call("TIME")
    today = int(seconds) // 86_400
    rows = await ledger.used(queue.redis, queue.root, "ann", range(today - 1, today + 1))
    return {(row.model, row.key): row.use for row in rows}


async def test_grants_and_charges_are_entries_newest_first(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40, model="m/1")
    assert await _entries(queue) == [Entry(kind="grant", amount=100)]
    await queue.complete(await queue.claim_one(), cost=25, meter=_METER)
    await queue.grant(-10)
    assert await _entries(queue) == [
        Entry(kind="grant", amount=-10),
        Entry(kind="charge", amount=25, generation=ticket.id, model="m/1", key="key-1"),
        Entry(kind="grant", amount=100),
    ]


async def test_settlement_that_is_repeated_is_charged_and_counted_once(
    queue: RedisFunctions,
) -> None:
    await queue.grant(100)
    await queue.submit(hold=40)
    claimed = await queue.claim_one()
    await queue.append(claimed, 1, "Hi")
    for _ in range(3):
        settled = await queue.settle(claimed, seq=2, cost=25, meter=_METER)
        assert settled is not None
        assert settled.captured == 25
    assert [entry.amount for entry in await _entries(queue)] == [25, 100]
    assert await _use(queue) == {("m/1", "key-1"): UsageTotals(1, 30, 12, 5, 25)}


async def test_cost_beyond_the_hold_is_noted_and_not_taken(queue: RedisFunctions) -> None:
    await queue.grant(100)
    await queue.submit(hold=40)
    await queue.complete(await queue.claim_one(), cost=55, meter=_METER)
    charge, _ = await _entries(queue)
    assert (charge.amount, charge.overrun) == (40, 15)
    assert (await queue.credit_totals()).overrun == 15
    assert (await _use(queue))["m/1", "key-1"].captured == 40


async def test_free_answer_is_counted_and_not_charged(queue: RedisFunctions) -> None:
    await queue.grant(100)
    await queue.submit(hold=40)
    await queue.complete(await queue.claim_one(), meter=_METER)
    await queue.submit(hold=40)
    await queue.settle(await queue.claim_one(), stage="failed")
    await queue.cancel(await queue.submit(hold=40))
    assert await _entries(queue) == [Entry(kind="grant", amount=100)]
    assert await _use(queue) == {("m/1", "key-1"): UsageTotals(1, 30, 12, 5, 0)}


async def test_usage_adds_up_by_model(queue: RedisFunctions) -> None:
    await queue.grant(1000)
    for model in ("a", "b", "a"):
        await queue.submit(hold=40)
        meter = Meter(model=model, input=3, output=2, reasoning=0)
        await queue.complete(await queue.claim_one(), cost=7, meter=meter)
    assert await _use(queue) == {
        ("a", "key-1"): UsageTotals(2, 6, 4, 0, 14),
        ("b", "key-1"): UsageTotals(1, 3, 2, 0, 7),
    }


@pytest.mark.parametrize(("cost", "shares"), [(30, (20, 10)), (50, (20, 20)), (10, (10, 0))])
async def test_each_model_of_an_answer_has_its_own_use(
    queue: RedisFunctions, cost: int, shares: tuple[int, int]
) -> None:
    await queue.grant(100)
    await queue.submit(hold=40)
    other = Meter(model="a", input=9, output=8, reasoning=7, cost=20)
    meter = Meter(model="b", input=3, output=2, reasoning=0, others=(other,))
    await queue.complete(await queue.claim_one(), cost=cost, meter=meter)
    # The answer is one generation; what the hold does not pay for is nobody's.
    assert await _use(queue) == {
        ("a", "key-1"): UsageTotals(0, 9, 8, 7, shares[0]),
        ("b", "key-1"): UsageTotals(1, 3, 2, 0, shares[1]),
    }


async def test_a_year_of_use_is_one_call(queue: RedisFunctions) -> None:
    for day in (0, 7, 365, 366):
        await queue.redis.call(
            "HSET", keys.USAGE(queue.root, "ann", day), "m|k|generations", day + 1
        )
    counting = _Counting(queue.redis)
    rows = await ledger.used(counting, queue.root, "ann", range(366))
    assert [(row.day, row.use.generations) for row in rows] == [(0, 1), (7, 8), (365, 366)]
    assert counting.calls == 1


async def test_more_than_a_year_of_use_is_refused(queue: RedisFunctions) -> None:
    with pytest.raises(StoreError, match="MORE DAYS"):
        await ledger.used(queue.redis, queue.root, "ann", range(367))


async def test_ledger_stays_when_a_session_is_deleted(queue: RedisFunctions) -> None:
    await queue.grant(100)
    ticket = await queue.submit(hold=40)
    await queue.complete(await queue.claim_one(), cost=25, meter=_METER)
    assert await queue.delete_session("ann", ticket.session)
    assert [entry.amount for entry in await _entries(queue)] == [25, 100]


async def test_concurrent_accepts_are_limited_by_the_balance(queue: RedisFunctions) -> None:
    await queue.grant(20 * 40 + 39)
    answers = await asyncio.gather(*(queue.accept("ann", hold=40) for _ in range(500)))
    assert sum(isinstance(answer, Accepted) for answer in answers) == 20
    refused = [answer for answer in answers if isinstance(answer, Rejected)]
    assert {(answer.reason, answer.about) for answer in refused} == {("poor", "39")}
    credit_totals = await queue.credit_totals()
    assert (credit_totals.balance, credit_totals.held) == (39, 800)
