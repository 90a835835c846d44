"""Permits: which turn has them, and when they are returned."""

from shared.settings import ProviderSettings
from tests.support.clocks import ManualClock
from worker.resilience.permits import UNUSED_SECONDS, Permit, Permits
from worker.resilience.provider_rate_limits import ProviderRateLimits

_LIMITS = ProviderRateLimits(ProviderSettings(name="p", base_url="http://p"))
_ONE, _TWO = (Permit(_LIMITS, "interactive", name, 0) for name in ("one", "two"))


def test_a_permit_is_used_by_the_turn_that_was_claimed_with_it_only() -> None:
    permits = Permits(ManualClock(100.0))
    permits.add(_ONE)
    permits.assign("p", "interactive", "a")
    permits.assign("p", "interactive", "b")
    assert permits.free("p", "interactive") == 0
    assert permits.take_assigned("p", "interactive", "b") is None
    assert permits.take_assigned("q", "interactive", "a") is None
    assert permits.take_assigned("p", "batch", "a") is None
    assert permits.take_assigned("p", "interactive", "a") == _ONE
    assert permits.take_assigned("p", "interactive", "a") is None
    assert permits.drop("a") == []


def test_a_permit_that_its_turn_leaves_is_dropped_once() -> None:
    permits = Permits(ManualClock(100.0))
    permits.add(_ONE)
    permits.assign("p", "interactive", "a")
    assert permits.drop("b") == []
    assert permits.drop("a", "q") == []
    assert permits.drop("a", "p") == [_ONE]
    assert permits.drop("a") == []


def test_what_was_not_used_in_time_goes_back() -> None:
    clock = ManualClock(100.0)
    permits = Permits(clock)
    permits.add(_ONE)
    permits.assign("p", "interactive", "a")
    clock.now += 1
    permits.add(_TWO)
    assert permits.take_unused(clock.now) == []
    clock.now += UNUSED_SECONDS
    assert permits.take_unused(clock.now - UNUSED_SECONDS) == [_ONE]
    assert permits.take_unused(clock.now) == [_TWO]
    assert permits.held("p") == 0
