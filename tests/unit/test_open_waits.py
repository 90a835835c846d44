"""Places of streams and waits: as many as the tier allows, and the oldest is evicted first."""

from contextlib import ExitStack

import pytest
from hypothesis import given, strategies as st

from api.guards.open_waits import OpenWaits
from api.guards.rate_limits import allowances
from shared.errors import Code, RefusedError
from shared.settings import Settings
from shared.tiers import LimitSettings, Tier
from shared.wire.account import Account
from tests.support.clocks import ManualClock
from tests.unit.test_rate_limits import seconds

ANN = Account(id="ann", partition=0, created=0, tier="free")
BOB = Account(id="bob", partition=0, created=0, tier="free")


def _places(clock: ManualClock, most: int) -> OpenWaits:
    tier = Tier(submissions_per_minute=1, waits_max=most)
    return OpenWaits(allowances(Settings(limits=LimitSettings(free=tier))), 45.0, clock)


def test_an_account_has_so_many_places_and_gives_them_back() -> None:
    clock = ManualClock(100.0)
    places = _places(clock, 2)
    with places.hold(ANN, _never), places.hold(ANN, _never):
        with pytest.raises(RefusedError) as caught, places.hold(ANN, _never):
            pass
        assert caught.value.code is Code.RATE_LIMITED
        assert seconds(caught.value) == 45
        assert caught.value.headers["ratelimit-limit"] == "2"
        with places.hold(BOB, _never):
            pass
    with places.hold(ANN, _never), places.hold(ANN, _never):
        pass


def test_the_oldest_place_goes_to_a_request_at_its_retry_after() -> None:
    clock = ManualClock(100.0)
    places, ended = _places(clock, 2), list[str]()
    with ExitStack() as held:
        held.enter_context(places.hold(ANN, lambda: ended.append("first")))
        clock.now += 20.5
        held.enter_context(places.hold(ANN, lambda: ended.append("second")))
        with pytest.raises(RefusedError) as caught, places.hold(ANN, _never):
            pass
        assert seconds(caught.value) == 25
        clock.now += 25
        held.enter_context(places.hold(ANN, lambda: ended.append("third")))
        assert ended == ["first"]
        with pytest.raises(RefusedError), places.hold(ANN, _never):
            pass
    # An evicted holder frees no second place.
    with places.hold(ANN, _never), places.hold(ANN, _never):
        pass
    assert ended == ["first"]


def test_without_any_place_everybody_is_refused() -> None:
    places = _places(ManualClock(100.0), 0)
    with pytest.raises(RefusedError), places.hold(ANN, _never):
        pass


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.floats(0, 60)), max_size=40))
def test_there_are_never_more_than_there_may_be(
    most: int, course: list[tuple[bool, float]]
) -> None:
    clock = ManualClock(100.0)
    places = _places(clock, most)
    open_: list[ExitStack] = []
    for is_leaving, pause in course:
        clock.now += pause
        if is_leaving and open_:
            open_.pop(0).close()
            continue
        own = ExitStack()
        try:
            own.enter_context(places.hold(ANN, lambda own=own: open_.remove(own)))  # type: ignore[misc]  # a default of the closure
        except RefusedError as refusal:
            assert len(open_) == most
            clock.now += seconds(refusal)
            own.enter_context(places.hold(ANN, lambda own=own: open_.remove(own)))  # type: ignore[misc]  # the same
        open_.append(own)
        assert len(open_) <= most


def _never() -> None:
    raise AssertionError("it holds its place")
