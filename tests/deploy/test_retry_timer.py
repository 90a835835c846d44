"""The retry timer: growing pauses, Retry-After, one note for a series of failures, the deadline."""

import httpx
import pytest

from deploy.retry_timer import RetryTimer, retry_after
from shared.errors import UnavailableError
from tests.support.clocks import ManualClock


def _timer(give_up_seconds: float = 60.0) -> tuple[RetryTimer, ManualClock, list[str]]:
    clock, notes = ManualClock(), list[str]()
    timer = RetryTimer(clock, notes.append, "http://api", give_up_seconds=give_up_seconds)
    return timer, clock, notes


async def test_pauses_double_and_a_reset_starts_again() -> None:
    timer, clock, notes = _timer()
    for _ in range(7):
        await timer.pause("no reply")
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    timer.reset()
    await timer.pause("no reply")
    assert clock.slept[7:] == [0.25]
    assert notes == ["no reply"] * 2


async def test_a_pause_is_at_least_the_retry_after() -> None:
    timer, clock, _ = _timer()
    await timer.pause("429", 3.0)
    await timer.pause("429", 0.1)
    assert clock.slept == [3.0, 0.5]


async def test_no_attempt_is_made_after_the_deadline() -> None:
    timer, clock, _ = _timer(give_up_seconds=5.0)
    await timer.pause("429", 4.0)
    with pytest.raises(UnavailableError, match=r"The API at http://api did not answer: 429\."):
        await timer.pause("429", 2.0)
    assert clock.slept == [4.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("", 0.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0)],
)
def test_retry_after_is_whole_seconds(header: str, seconds: float) -> None:
    assert retry_after(httpx.Response(503, headers={"Retry-After": header})) == seconds
    assert retry_after(httpx.Response(503)) == 0.0
