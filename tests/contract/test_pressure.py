"""What is turned away for want of room or time, and the counts that this is decided by."""

from shared.redis import functions
from shared.redis.functions import Accepted, NotAccepted
from tests.support.desk import Desk


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
