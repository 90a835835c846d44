"""Which messages are rejected for want of room or time, and the counts that decide it."""

import pytest

from shared.errors import UnavailableError
from shared.redis import functions, library
from shared.redis.client import Redis
from shared.redis.functions import Accepted, Rejected
from shared.settings import RedisSettings
from shared.wire.submission import TURN_WIRE, OnConflict
from tests.support.redis_functions import RedisFunctions
from worker.outcome import INTERNAL


async def test_load_counts_waiting_running_and_ended_generations(queue: RedisFunctions) -> None:
    for _ in range(3):
        await queue.submit()
    [claimed] = await queue.claim(1)
    ask = functions.PartitionLoadAsk()
    before = await functions.partition_load(queue.redis, queue.root, ask)
    assert (before.unfinished, before.running, before.ended) == (3, 1, 0)
    assert before.used_bytes > 0
    await queue.settle(claimed, seq=1, stage="failed")
    after = await functions.partition_load(queue.redis, queue.root, ask)
    assert (after.unfinished, after.running, after.ended) == (2, 0, 1)
    assert after.now_ms >= before.now_ms


async def _reason(queue: RedisFunctions, account: str, slots: int, rounds: int) -> str:
    answer = await queue.accept(account, slots=slots, rounds_max=rounds)
    if isinstance(answer, Accepted):
        return "accepted"
    assert isinstance(answer, Rejected)
    assert answer.rate is not None
    return answer.reason


async def test_message_that_cannot_be_answered_in_time_is_rejected(queue: RedisFunctions) -> None:
    for _ in range(4):
        assert await _reason(queue, "ann", 2, 1) == "accepted"
    assert await _reason(queue, "ann", 2, 1) == "late"
    assert await _reason(queue, "ann", 2, 2) == "accepted"
    # Where the number of slots is unknown, nothing is rejected.
    assert await _reason(queue, "ann", 0, 0) == "accepted"


async def test_time_is_estimated_by_the_accounts_share(queue: RedisFunctions) -> None:
    for _ in range(4):
        await queue.submit("mill")
    # Two accounts share four slots: ann's first two turns are in the first round.
    answers = [await _reason(queue, "ann", 4, 0) for _ in range(4)]
    assert answers == ["accepted", "accepted", "late", "late"]


async def test_running_turns_are_not_ahead(queue: RedisFunctions) -> None:
    for _ in range(2):
        await queue.submit("ann")
    assert await _reason(queue, "ann", 2, 0) == "late"
    await queue.claim(2)
    assert await _reason(queue, "ann", 2, 0) == "accepted"


@pytest.mark.parametrize("head", ["ready", "running", "suspended"])
async def test_interrupted_turn_does_not_count_as_ahead_and_others_do(
    queue: RedisFunctions, head: str
) -> None:
    ticket = await queue.submit("ann", wire=TURN_WIRE)
    if head != "ready":
        [claimed] = await queue.claim(wire=TURN_WIRE)
        if head == "suspended":
            assert await queue.suspend(claimed, 1) == "suspended"
    for _ in range(2):
        await queue.submit("ann")
    answers = [
        await queue.accept(
            "ann", ticket.session, is_new=False, on_conflict="interrupt", slots=1, rounds_max=rounds
        )
        for rounds in (1, 2)
    ]
    assert [type(answer) for answer in answers] == [Rejected, Accepted]


async def test_share_among_more_accounts_than_slots_is_less_than_one(
    queue: RedisFunctions,
) -> None:
    for number in range(9):
        await queue.submit(f"mill{number}")
    # Ten accounts share two slots: each of ann's turns takes five rounds.
    answers = [await _reason(queue, "ann", 2, 5) for _ in range(3)]
    assert answers == ["accepted", "accepted", "late"]


async def test_time_is_estimated_by_weight(queue: RedisFunctions) -> None:
    for number in range(4):
        await queue.submit(f"light{number}", stride=1000)

    async def taken_in(account: str, stride: int) -> int:
        answers = [
            await queue.accept(account, stride=stride, slots=3, rounds_max=3) for _ in range(20)
        ]
        return sum(isinstance(answer, Accepted) for answer in answers)

    assert await taken_in("heavy", 125) == 6
    # Beside one account that counts as eight.
    assert await taken_in("light", 1000) == 1


async def test_time_is_estimated_by_how_many_may_run(queue: RedisFunctions) -> None:
    for _ in range(4):
        await queue.submit("ann", running_max=2)
    answers = [
        await queue.accept("ann", slots=100, running_max=2, rounds_max=most) for most in (1, 2)
    ]
    assert [type(answer) for answer in answers] == [Rejected, Accepted]


async def test_time_is_estimated_by_the_turns_of_its_session(queue: RedisFunctions) -> None:
    first = await queue.submit("ann")
    for _ in range(2):
        await queue.submit("ann", first.session)

    async def wish(rounds: int, on_conflict: OnConflict = "enqueue") -> object:
        return await queue.accept(
            "ann", first.session, slots=100, rounds_max=rounds, on_conflict=on_conflict
        )

    late, taken = await wish(1), await wish(2)
    assert isinstance(late, Rejected)
    assert late.reason == "late"
    assert isinstance(taken, Accepted)
    assert taken.session_turns_before == 2
    ticket = await queue.submit("ann", first.session)
    status = await queue.status(ticket)
    assert (status.session_turns_before, status.running_max, status.lane_accounts) == (3, 1_000, 1)
    # An interrupt waits for none of them.
    assert isinstance(await wish(0, "interrupt"), Accepted)


async def test_full_server_still_ends_generations(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    queue = RedisFunctions(own_redis, own_settings)
    await queue.grant(100)
    dead = await queue.submit()
    await queue.fail(await queue.claim_one(), INTERNAL)
    runs, waits, goes = [await queue.submit(hold=10) for _ in range(3)]
    claimed = await queue.claim_one()
    await own_redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(UnavailableError, match="OOM"):
            await queue.submit()
        assert await queue.beat(claimed) == []
        await queue.complete(claimed, "Hi")
        assert await queue.discard(dead) == [True]
        assert await queue.cancel(waits) is not None
        assert await queue.delete_session("ann", goes.session)
        assert (await queue.reap()).done == []
    finally:
        await own_redis.call("CONFIG", "SET", "maxmemory", 0)
    assert await queue.stage(runs) == "completed"
