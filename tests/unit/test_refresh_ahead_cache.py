"""Values that are reloaded before they are too old, on a fake clock."""

import asyncio
from collections import deque

import pytest

from api.refresh_ahead_cache import RefreshAheadCache
from shared.errors import UnavailableError
from tests.support.clocks import AdjustableClock


class Source:
    """What is loaded: the next of its values, once it is released."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def look(self, name: str) -> str:
        self.asked.append(name)
        answer = self.answers.popleft()
        await self.gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def _settled() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)  # noqa: TID251  a turn of the loop, no time


async def test_a_young_value_is_not_reloaded() -> None:
    clock, source = AdjustableClock(), Source("first")
    fresh = RefreshAheadCache(source.look, clock, trusted_seconds=10)
    assert await fresh.get("one") == "first"
    clock.advance(4)
    assert await fresh.get("one") == "first"
    assert source.asked == ["one"]


async def test_a_value_past_two_thirds_of_its_trust_is_reloaded_in_the_background() -> None:
    clock, source = AdjustableClock(), Source("first", "second")
    fresh = RefreshAheadCache(source.look, clock, trusted_seconds=10)
    await fresh.get("one")
    clock.advance(7)
    source.gate.clear()
    assert await fresh.get("one") == "first"
    assert await fresh.get("one") == "first"
    source.gate.set()
    await _settled()
    assert await fresh.get("one") == "second"
    assert source.asked == ["one", "one"]


async def test_a_value_past_its_trust_is_waited_for_by_all_together() -> None:
    clock, source = AdjustableClock(), Source("first", "second")
    fresh = RefreshAheadCache(source.look, clock, trusted_seconds=10)
    await fresh.get("one")
    clock.advance(11)
    assert await asyncio.gather(*(fresh.get("one") for _ in range(9))) == ["second"] * 9
    assert source.asked == ["one", "one"]


async def test_the_age_counts_from_the_question_not_from_the_answer() -> None:
    clock, source = AdjustableClock(), Source("first", "second")
    fresh = RefreshAheadCache(source.look, clock, trusted_seconds=10)
    source.gate.clear()
    asking = asyncio.create_task(fresh.get("one"))
    await _settled()
    clock.advance(11)
    source.gate.set()
    assert await asking == "first"
    assert await fresh.get("one") == "second"


async def test_a_failed_load_raises_once_no_value_is_left_to_trust() -> None:
    trouble = UnavailableError("away")
    clock, source = AdjustableClock(), Source("first", trouble, trouble, "second")
    fresh = RefreshAheadCache(source.look, clock, trusted_seconds=10)
    await fresh.get("one")
    clock.advance(7)
    assert await fresh.get("one") == "first"
    await _settled()
    clock.advance(5)
    with pytest.raises(UnavailableError):
        await fresh.get("one")
    assert await fresh.get("one") == "second"


async def test_an_asker_that_is_cancelled_takes_nothing_from_the_others() -> None:
    source = Source("first")
    fresh = RefreshAheadCache(source.look, AdjustableClock(), trusted_seconds=10)
    source.gate.clear()
    leaver, other = (asyncio.create_task(fresh.get("one")) for _ in range(2))
    await _settled()
    leaver.cancel()
    await _settled()
    source.gate.set()
    assert await other == "first"
    assert leaver.cancelled()
    assert source.asked == ["one"]


async def test_what_was_forgotten_is_looked_up_again() -> None:
    source = Source("first", "second")
    fresh = RefreshAheadCache(source.look, AdjustableClock(), trusted_seconds=10)
    assert await fresh.get("one") == "first"
    fresh.forget("one")
    fresh.forget("two")
    assert await fresh.get("one") == "second"


async def test_a_load_that_started_before_forget_is_not_kept() -> None:
    source = Source("first", "second")
    fresh = RefreshAheadCache(source.look, AdjustableClock(), trusted_seconds=10)
    source.gate.clear()
    early = asyncio.create_task(fresh.get("one"))
    await _settled()
    fresh.forget("one")
    late = asyncio.create_task(fresh.get("one"))
    await _settled()
    source.gate.set()
    assert (await early, await late) == ("first", "second")
    assert await fresh.get("one") == "second"
    assert len(source.asked) == 2
