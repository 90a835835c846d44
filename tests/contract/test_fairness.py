"""Which turns are claimed first: interactive ones, accounts by weight, none beyond its limit."""

import re
from collections import Counter
from pathlib import Path

from shared import fairness
from shared.redis import keys
from tests.support.redis_functions import RedisFunctions

_TRICKLE = 20
_AHEAD = fairness.CLAIMS_AHEAD
_DOCUMENT = Path(__file__).parents[2] / "shared" / "README.md"


async def test_batch_gets_one_claim_in_twenty_while_interactive_turns_wait(
    queue: RedisFunctions,
) -> None:
    for number in range(60):
        await queue.submit(f"person{number % 7}")
    for _ in range(5):
        await queue.submit("mill", lane="batch")
    lanes = [claimed.lane for _ in range(15) for claimed in await queue.claim(4)]
    assert lanes[:_TRICKLE] == ["interactive"] * (_TRICKLE - 1) + ["batch"]
    assert [at for at, lane in enumerate(lanes, 1) if lane == "batch"] == [20, 40, 60]


async def test_interactive_claims_without_a_waiting_batch_are_not_counted(
    queue: RedisFunctions,
) -> None:
    for _ in range(40):
        await queue.submit()
    assert len(await queue.claim(30)) == 30
    await queue.submit("mill", lane="batch")
    assert [claimed.lane for claimed in await queue.claim(10)] == ["interactive"] * 10


async def test_batch_is_given_no_more_slots_than_are_free_for_it(queue: RedisFunctions) -> None:
    for _ in range(5):
        await queue.submit("mill", lane="batch")
    assert len(await queue.claim(5, batch=2)) == 2
    assert await queue.claim(5, batch=0) == []
    interactive = await queue.submit("ann")
    assert [claimed.id for claimed in await queue.claim(5, batch=0)] == [interactive.id]
    assert len(await queue.claim(5, batch=3)) == 3


async def test_batch_lane_has_its_own_wakeups(queue: RedisFunctions) -> None:
    async def rings() -> list[int]:
        names = [keys.WAKEUP(queue.root, lane) for lane in ("interactive", "batch")]
        return [int(await queue.redis.call("LLEN", name)) for name in names]

    await queue.submit("mill", lane="batch")
    assert await rings() == [0, 1]
    await queue.submit("ann")
    assert await rings() == [1, 1]
    await queue.claim(5, batch=0)
    assert await rings() == [0, 1]
    await queue.claim(5)
    assert await rings() == [0, 0]


async def test_accounts_are_served_by_their_weight(queue: RedisFunctions) -> None:
    for _ in range(40):
        await queue.submit("light", stride=1000)
        await queue.submit("heavy", stride=250)
    served = Counter(claimed.account for claimed in await queue.claim(40))
    assert served == {"heavy": 32, "light": 8}


async def test_weight_may_change_while_work_waits(queue: RedisFunctions) -> None:
    for _ in range(20):
        await queue.submit("light", stride=1000)
        await queue.submit("heavy", stride=1000)
    assert Counter(one.account for one in await queue.claim(10)) == {"light": 5, "heavy": 5}
    await queue.submit("heavy", stride=250)
    served = Counter(one.account for one in await queue.claim(20))
    assert served["heavy"] == 16


async def test_account_runs_no_more_than_it_may_and_goes_on_as_they_end(
    queue: RedisFunctions,
) -> None:
    for _ in range(4):
        await queue.submit("ann", running_max=2)
    other = await queue.submit("bob", running_max=2)
    claimed = await queue.claim(10)
    assert Counter(one.account for one in claimed) == {"ann": 2, "bob": 1}
    assert await queue.claim(10) == []
    mine = [one for one in claimed if one.id != other.id]
    await queue.settle(mine[0], seq=1, stage="failed")
    [following] = await queue.claim(10)
    assert following.account == "ann"
    await queue.release(mine[1])
    assert len(await queue.claim(10)) == 1
    assert await queue.claim(10) == []


async def test_what_runs_of_one_lane_counts_in_the_other(queue: RedisFunctions) -> None:
    await queue.submit("ann", running_max=1, lane="batch")
    [running] = await queue.claim(1)
    interactive = await queue.submit("ann", running_max=1)
    await queue.submit("ann", running_max=1, lane="batch")
    assert await queue.claim(5) == []
    await queue.settle(running, seq=1, stage="failed")
    assert [one.id for one in await queue.claim(5)] == [interactive.id]


async def test_batch_leaves_room_for_its_accounts_interactive_turns(queue: RedisFunctions) -> None:
    for _ in range(6):
        await queue.submit("ann", running_max=4, lane="batch")
    batch = await queue.claim(9)
    assert [one.lane for one in batch] == ["batch"] * 3
    interactive_turns = [await queue.submit("ann", running_max=4) for _ in range(2)]
    assert [one.id for one in await queue.claim(9)] == [interactive_turns[0].id]
    await queue.complete(batch[0])
    assert [one.id for one in await queue.claim(9)] == [interactive_turns[1].id]
    await queue.complete(batch[1])
    assert [one.lane for one in await queue.claim(9)] == ["batch"]


async def test_account_outside_its_lane_may_cancel_waiting_turns(queue: RedisFunctions) -> None:
    await queue.submit("ann", running_max=1)
    [running] = await queue.claim(5)
    waiting = await queue.submit("ann", running_max=1)
    await queue.cancel(waiting)
    await queue.settle(running, seq=1, stage="failed")
    assert await queue.claim(5) == []


async def test_expired_lease_lets_an_account_into_its_lane_again(queue: RedisFunctions) -> None:
    await queue.submit("ann", running_max=1)
    await queue.submit("ann", running_max=1)
    [first] = await queue.claim(5)
    await queue.redis.call("ZADD", keys.LEASES(queue.root), "XX", 1, f"ann:{first.id}")
    await queue.reap()
    again = await queue.claim(5)
    assert [(one.id, one.attempt) for one in again] == [(first.id, 2)]


async def test_raised_running_max_counts_from_the_next_end_on(queue: RedisFunctions) -> None:
    for _ in range(6):
        await queue.submit("ann", running_max=1)
    [running] = await queue.claim(5)
    await queue.submit("ann", running_max=3)
    claimed = await queue.claim(5)
    await queue.settle(running, seq=1, stage="failed")
    claimed += await queue.claim(5)
    assert len(claimed) == 3


async def test_raised_running_max_lets_an_account_into_its_lane_at_once(
    queue: RedisFunctions,
) -> None:
    tickets = [await queue.submit("ann", running_max=1) for _ in range(2)]
    batch = await queue.submit("ann", running_max=1, lane="batch")
    [running] = await queue.claim(5)
    behind = await queue.submit("ann", tickets[0].session, running_max=4)
    assert {one.id for one in await queue.claim(5)} == {tickets[1].id, batch.id}
    await queue.complete(running)
    assert [one.id for one in await queue.claim(5)] == [behind.id]


async def test_accounts_of_any_weight_start_the_same_number_of_claims_ahead(
    queue: RedisFunctions,
) -> None:
    for _ in range(60):
        await queue.submit("hog")
    await queue.claim(20)
    for _ in range(40):
        await queue.submit("heavy", stride=250)
    served = [claimed.account for claimed in await queue.claim(30)]
    assert served[:_AHEAD] == ["heavy"] * _AHEAD
    share = Counter(served[_AHEAD:])
    assert abs(share["hog"] - (30 - _AHEAD) / 5) <= 1


async def test_claims_go_to_the_accounts_of_the_documented_example(queue: RedisFunctions) -> None:
    row = re.search(r"^\| goes to \|(.+)\|$", _DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert row is not None
    for _ in range(6):
        await queue.submit("ann", stride=fairness.STRIDE)
        await queue.submit("bob", stride=fairness.STRIDE // 4)
    served = [claimed.account for claimed in await queue.claim(6)]
    assert served == [name.strip() for name in row[1].split("|")]


async def test_an_idle_account_enters_where_the_documented_example_says(
    queue: RedisFunctions,
) -> None:
    await queue.redis.call("HSET", keys.CLOCKS(queue.root), "interactive", 50_000)
    for account, left, entered in (("ann", 12_000, 42_000), ("bob", 49_800, 49_800)):
        totals = keys.ACCOUNT_TOTALS(queue.root, account)
        await queue.redis.call("HSET", totals, "left_interactive", left)
        await queue.submit(account, stride=fairness.STRIDE)
        score = await queue.redis.call("ZSCORE", keys.LANE(queue.root, "interactive"), account)
        assert int(score) == entered
