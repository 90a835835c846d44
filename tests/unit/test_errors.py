"""When to come again is said by how long Redis has been away."""

from api import errors
from shared.errors import NotNowError, UnavailableError
from shared.redis.outage import Outage

_DRAWS = 200


class _Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def _told(outage: Outage, kind: type[UnavailableError] = UnavailableError) -> set[int]:
    found = {outage.with_retry_after(kind("away")).retry_after_seconds for _ in range(_DRAWS)}
    return {seconds for seconds in found if seconds is not None}


def test_longer_outage_is_waited_for_longer_within_bounds() -> None:
    clock = _Clock()
    outage = Outage(clock)
    outage.begin()
    assert _told(outage) == {1, 2}
    clock.seconds += 8
    outage.begin()
    assert _told(outage) == set(range(8, 17))
    clock.seconds += 3_600
    told = _told(outage)
    assert min(told) >= 15
    assert max(told) <= 30
    assert len(told) > 5


def test_outage_that_is_over_counts_no_more() -> None:
    clock = _Clock()
    outage = Outage(clock)
    outage.begin()
    clock.seconds += 60
    outage.end()
    outage.begin()
    assert _told(outage) == {1, 2}


def test_refusals_one_after_the_other_are_one_outage() -> None:
    clock = _Clock()
    outage = Outage(clock)
    for _ in range(4):
        assert _told(outage, NotNowError)
        clock.seconds += 2
    assert min(_told(outage, NotNowError)) == 8
    clock.seconds += 11
    assert _told(outage, NotNowError) == {1, 2}


def test_what_was_measured_is_what_a_caller_reads() -> None:
    _, headers, _ = errors.describe(UnavailableError("away", retry_after_seconds=17))
    assert headers["retry-after"] == "17"


def test_without_a_measure_callers_are_spread_over_a_few_seconds() -> None:
    error = UnavailableError("away")
    told = {errors.describe(error)[1]["retry-after"] for _ in range(_DRAWS)}
    assert told == {"1", "2", "3"}
