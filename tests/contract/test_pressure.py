"""What is turned away for want of room or time, and the counts that this is decided by."""

import pytest

from shared.errors import UnavailableError
from shared.redis import functions, library
from shared.redis.client import Redis
from shared.redis.functions import Accepted, NotAccepted
from shared.settings import RedisSettings
from shared.wire.submission import OnConflict
from tests.support.desk import Desk
from worker.run import INTERNAL


async def test_counts_what_waits_runs_and_has_ended(desk: Desk) -> None:
    for _ in range(3):
        await desk.submit()
    [claimed] = await desk.claim(1)
    ask = functions.PressureAsk()
    before = await functions.pressure(desk.redis, desk.root, ask)
    assert (before.unfinished, before.running, before.ended) == (3, 1, 0)
    assert before.used_bytes > 0
    await desk.settle(claimed, seq=1, stage="failed")
    after = await functions.pressure(desk.redis, desk.root, ask)
    assert (after.unfinished, after.running, after.ended) == (2, 0, 1)
    assert after.now_ms >= before.now_ms


async def _reason(desk: Desk, account: str, slots: int, rounds: int) -> str:
    answer = await desk.accept(account, slots=slots, rounds_max=rounds)
    if isinstance(answer, Accepted):
        return "accepted"
    assert isinstance(answer, NotAccepted)
    assert answer.rate is not None
    return answer.reason


async def test_what_cannot_be_answered_in_time_is_not_taken_in(desk: Desk) -> None:
    for _ in range(4):
        assert await _reason(desk, "ann", 2, 1) == "accepted"
    assert await _reason(desk, "ann", 2, 1) == "late"
    assert await _reason(desk, "ann", 2, 2) == "accepted"
    # Where nobody knows how many work, nobody is turned away.
    assert await _reason(desk, "ann", 0, 0) == "accepted"


async def test_time_is_reckoned_by_the_account_s_own_share(desk: Desk) -> None:
    for _ in range(4):
        await desk.submit("mill")
    # Two accounts share four slots: ann's first two are of the first round.
    answers = [await _reason(desk, "ann", 4, 0) for _ in range(4)]
    assert answers == ["accepted", "accepted", "late", "late"]


async def test_what_runs_is_not_ahead(desk: Desk) -> None:
    for _ in range(2):
        await desk.submit("ann")
    assert await _reason(desk, "ann", 2, 0) == "late"
    await desk.claim(2)
    assert await _reason(desk, "ann", 2, 0) == "accepted"


async def test_share_of_who_waits_among_more_than_there_are_slots_is_less_than_one(
    desk: Desk,
) -> None:
    for number in range(9):
        await desk.submit(f"mill{number}")
    # Ten accounts share two slots: each of its own takes ann five rounds.
    answers = [await _reason(desk, "ann", 2, 5) for _ in range(3)]
    assert answers == ["accepted", "accepted", "late"]


async def test_time_is_reckoned_by_weight(desk: Desk) -> None:
    for number in range(4):
        await desk.submit(f"light{number}", stride=1000)

    async def taken_in(account: str, stride: int) -> int:
        answers = [
            await desk.accept(account, stride=stride, slots=3, rounds_max=3) for _ in range(20)
        ]
        return sum(isinstance(answer, Accepted) for answer in answers)

    assert await taken_in("heavy", 125) == 6
    # Beside one that counts as eight.
    assert await taken_in("light", 1000) == 1


async def test_time_is_reckoned_by_how_many_may_run(desk: Desk) -> None:
    for _ in range(4):
        await desk.submit("ann", running_max=2)
    answers = [
        await desk.accept("ann", slots=100, running_max=2, rounds_max=most) for most in (1, 2)
    ]
    assert [type(answer) for answer in answers] == [NotAccepted, Accepted]


async def test_time_is_reckoned_by_the_turns_of_its_session(desk: Desk) -> None:
    first = await desk.submit("ann")
    for _ in range(2):
        await desk.submit("ann", first.session)

    async def wish(rounds: int, on_conflict: OnConflict = "enqueue") -> object:
        return await desk.accept(
            "ann", first.session, slots=100, rounds_max=rounds, on_conflict=on_conflict
        )

    late, taken = await wish(1), await wish(2)
    assert isinstance(late, NotAccepted)
    assert late.reason == "late"
    assert isinstance(taken, Accepted)
    assert taken.behind == 2
    ticket = await desk.submit("ann", first.session)
    look = await desk.status(ticket)
    assert (look.behind, look.most, look.crowd) == (3, 1_000, 1)
    # Who interrupts waits for none of them.
    assert isinstance(await wish(0, "interrupt"), Accepted)


async def test_server_that_is_full_still_takes_in_what_ends(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    desk = Desk(own_redis, own_settings)
    await desk.grant(100)
    dead = await desk.submit()
    await desk.fail(await desk.claim_one(), INTERNAL)
    runs, waits, goes = [await desk.submit(hold=10) for _ in range(3)]
    claimed = await desk.claim_one()
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(UnavailableError, match="OOM"):
            await desk.submit()
        assert await desk.beat(claimed) == []
        await desk.complete(claimed, "Hi")
        assert await desk.discard(dead) == [True]
        assert await desk.cancel(waits) is not None
        assert await desk.delete_session("ann", goes.session)
        assert (await desk.reap()).done == []
    finally:
        await own_redis.call("CONFIG", "SET", "maxmemory", 0)
    assert await desk.stage(runs) == "completed"
