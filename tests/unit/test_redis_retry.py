"""A Redis call that is repeated until it is answered: its backoff, and its log lines."""

from typing import Any

from structlog.testing import capture_logs

from shared.errors import UnavailableError
from tests.support.clocks import ManualClock
from worker.redis_retry import retry_until_answered


async def _retry(unanswered: int) -> tuple[str, list[float], list[Any]]:
    """Make a call that Redis leaves unanswered so many times."""
    clock, times = ManualClock(), 0

    async def send() -> str:
        nonlocal times
        times += 1
        if times <= unanswered:
            raise UnavailableError("Redis is away.")
        return "done"

    with capture_logs() as lines:
        return await retry_until_answered(clock, "a settlement", send), clock.slept, lines


async def test_what_is_answered_at_once_is_sent_once() -> None:
    assert await _retry(0) == ("done", [], [])


async def test_it_is_repeated_less_and_less_often_but_within_a_lease() -> None:
    answer, slept, _ = await _retry(40)
    assert answer == "done"
    assert slept[0] <= 0.1
    assert all(0.5 <= seconds <= 1.0 for seconds in slept[10:])
    assert len(slept) == 40


async def test_a_long_wait_is_logged_ever_less_often() -> None:
    _, _, lines = await _retry(40)
    assert [line["tries"] for line in lines] == [1, 2, 4, 8, 16, 32]
    assert {(line["event"], line["work"], line["log_level"]) for line in lines} == {
        ("waiting for Redis", "a settlement", "warning")
    }
