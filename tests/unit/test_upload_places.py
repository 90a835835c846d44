"""Which upload ends for another when all places are taken."""

from contextlib import ExitStack

import msgspec
import pytest

from api.batches.upload_places import GUARANTEED_SECONDS, UploadPlaces
from shared.errors import Code, PolluxError, RefusedError
from shared.settings import ApiSettings, RedisSettings, Settings
from shared.tiers import TierName
from shared.wire.account import Account
from tests.support.clocks import ManualClock

_SLOW, _FAST = 1_024.0, 1_000_000.0


class _Body:
    def __init__(self, speed: float, seconds_left: float | None = None) -> None:
        self.bytes_per_second = speed
        self.seconds_left = seconds_left
        self.error: PolluxError | None = None

    def end(self, error: PolluxError) -> None:
        self.error = error


class _Rig:
    def __init__(self, **settings: int) -> None:
        self.clock = ManualClock()
        self.stack = ExitStack()
        api = msgspec.structs.replace(ApiSettings(), **settings)
        self.places = UploadPlaces(Settings(redis=RedisSettings(), api=api), self.clock)

    def begin(
        self,
        account: str,
        speed: float = _SLOW,
        tier: TierName = "free",
        seconds_left: float | None = None,
    ) -> _Body:
        body = _Body(speed, seconds_left)
        self.stack.enter_context(self.places.hold(_account(account, tier), body))
        return body

    def refused(self, account: str, tier: TierName = "free") -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            self.begin(account, _FAST, tier)
        return caught.value


def _account(name: str, tier: TierName) -> Account:
    return Account(id=name, tier=tier, created=0, partition=0)


def test_slow_uploads_of_few_accounts_leave_room_for_others() -> None:
    rig = _Rig()
    slow = [rig.begin(name) for name in ("one", "two") for _ in range(4)]
    fast = [rig.begin("three", _FAST) for _ in range(2)]
    ended = [body.error for body in slow if body.error is not None]
    assert len(ended) == 2
    for error in ended:
        assert isinstance(error, RefusedError)
        assert (error.code, error.retry_after_seconds) == (Code.UNAVAILABLE, 5)
    assert [body.error for body in fast] == [None, None]
    # Their share is as large as that of the account with most: none of theirs ends for it.
    refusal = rig.refused("one")
    assert refusal.code == Code.UNAVAILABLE
    assert [body.error for body in fast] == [None, None]


def test_the_slowest_of_the_largest_share_ends() -> None:
    rig = _Rig(uploads_max=3)
    alone = rig.begin("one", 1.0)
    slower, faster = rig.begin("two", 2.0), rig.begin("two", 3.0)
    rig.begin("three")
    assert (alone.error, faster.error) == (None, None)
    assert slower.error is not None


def test_among_equals_only_a_slow_upload_ends_and_not_at_once() -> None:
    rig = _Rig(uploads_max=2)
    fast = rig.begin("one", _FAST)
    rig.clock.now = 1.0
    slow = rig.begin("two")
    rig.clock.now = 3.0
    refusal = rig.refused("three")
    assert refusal.code == Code.UNAVAILABLE
    # The time that it names is true.
    assert refusal.retry_after_seconds == GUARANTEED_SECONDS - 2
    rig.clock.now += refusal.retry_after_seconds
    rig.begin("three", _FAST)
    assert (fast.error, slow.error is None) == (None, False)


def test_a_share_is_by_the_weight_of_the_tier() -> None:
    rig = _Rig(uploads_max=2)
    slow = [rig.begin("paying", tier="pro") for _ in range(2)]
    rig.clock.now = 100.0
    rig.refused("free")
    assert [body.error for body in slow] == [None, None]
    other = rig.begin("larger", _FAST, "enterprise")
    assert sum(body.error is not None for body in slow) == 1
    assert other.error is None


def test_a_refusal_says_when_the_first_body_may_have_arrived() -> None:
    rig = _Rig(uploads_max=2)
    rig.begin("one", _FAST, seconds_left=41.2)
    rig.begin("two", _FAST, seconds_left=17.2)
    assert rig.refused("three").retry_after_seconds == 18


def test_a_place_is_free_again_after_its_upload() -> None:
    rig = _Rig(uploads_max=2, uploads_per_account=1)
    with rig.places.hold(_account("one", "free"), _Body(_FAST)):
        rig.begin("two", _FAST)
        limited = rig.refused("one")
        assert limited.code == Code.RATE_LIMITED
        rig.refused("three")
    rig.begin("one", _FAST)
