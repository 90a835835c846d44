"""Retry-After follows from how long Redis has been away."""

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


def _retry_afters(outage: Outage, kind: type[UnavailableError] = UnavailableError) -> set[int]:
    found = {outage.with_retry_after(kind("away")).retry_after_seconds for _ in range(_DRAWS)}
    return {seconds for seconds in found if seconds is not None}


def test_retry_after_grows_with_the_outage_within_bounds() -> None:
    clock = _Clock()
    outage = Outage(clock)
    outage.begin()
    assert _retry_afters(outage) == {1, 2}
    clock.seconds += 8
    outage.begin()
    assert _retry_afters(outage) == set(range(8, 17))
    clock.seconds += 3_600
    seconds = _retry_afters(outage)
    assert min(seconds) >= 15
    assert max(seconds) <= 30
    assert len(seconds) > 5


def test_an_outage_that_is_over_does_not_count() -> None:
    clock = _Clock()
    outage = Outage(clock)
    outage.begin()
    clock.seconds += 60
    outage.end()
    outage.begin()
    assert _retry_afters(outage) == {1, 2}


def test_successive_refusals_are_one_outage() -> None:
    clock = _Clock()
    outage = Outage(clock)
    for _ in range(4):
        assert _retry_afters(outage, NotNowError)
        clock.seconds += 2
    assert min(_retry_afters(outage, NotNowError)) == 8
    clock.seconds += 11
    assert _retry_afters(outage, NotNowError) == {1, 2}


def test_callers_get_the_measured_retry_after() -> None:
    headers = errors.headers_of(UnavailableError("away", retry_after_seconds=17))
    assert headers["retry-after"] == "17"


def test_without_a_measure_retry_after_is_random_within_seconds() -> None:
    error = UnavailableError("away")
    seconds = {errors.headers_of(error)["retry-after"] for _ in range(_DRAWS)}
    assert seconds == {"1", "2", "3"}
