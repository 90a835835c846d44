"""Permits: whose they are, and when they go back."""

from typing_extensions import override

from shared.clock import SystemClock
from worker.permits import UNUSED_SECONDS, Permit, Permits

_ONE, _TWO = (Permit("p", "interactive", name, 0) for name in ("one", "two"))


class _Clock(SystemClock):
    def __init__(self) -> None:
        self.now = 100.0

    @override
    def monotonic(self) -> float:
        return self.now


def test_a_permit_is_used_by_the_turn_that_was_claimed_with_it_only() -> None:
    permits = Permits(_Clock())
    permits.add(_ONE)
    permits.promise("p", "interactive", "a")
    permits.promise("p", "interactive", "b")
    assert permits.free("p", "interactive") == 0
    assert permits.use("p", "interactive", "b") is None
    assert permits.use("q", "interactive", "a") is None
    assert permits.use("p", "batch", "a") is None
    assert permits.use("p", "interactive", "a") == _ONE
    assert permits.use("p", "interactive", "a") is None
    assert permits.drop("a") == []


def test_a_permit_that_its_turn_leaves_is_dropped_once() -> None:
    permits = Permits(_Clock())
    permits.add(_ONE)
    permits.promise("p", "interactive", "a")
    assert permits.drop("b") == []
    assert permits.drop("a", "q") == []
    assert permits.drop("a", "p") == [_ONE]
    assert permits.drop("a") == []


def test_what_was_not_used_in_time_goes_back() -> None:
    clock = _Clock()
    permits = Permits(clock)
    permits.add(_ONE)
    permits.promise("p", "interactive", "a")
    clock.now += 1
    permits.add(_TWO)
    assert permits.unused(clock.now) == []
    clock.now += UNUSED_SECONDS
    assert permits.unused(clock.now - UNUSED_SECONDS) == [_ONE]
    assert permits.unused(clock.now) == [_TWO]
    assert permits.held("p") == 0
