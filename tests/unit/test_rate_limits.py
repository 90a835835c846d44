"""What an account may do in one process, on a fake clock."""

import math
from typing import Final

import pytest
from hypothesis import given, settings, strategies as st

from api.guards.rate_limits import Allowance, RateLimits
from shared import ids
from shared.errors import Code, RefusedError, RequestError
from shared.redis.functions import Rate
from shared.settings import ApiSettings, Settings
from shared.tiers import LimitSettings, Tier, TierName
from shared.wire.account import Account
from tests.support.clocks import ManualClock

WRONG: Final = RequestError("no", Code.INVALID_FIELDS)


class Requests:
    """One account's requests; each method returns the seconds to wait, 0 if it was served."""

    def __init__(self, settings: Settings | None = None, tier: TierName = "free") -> None:
        self.clock = ManualClock(100.0)
        self.limits = RateLimits(settings or Settings(), self.clock)
        self.account = Account(id="ann", partition=0, created=0, tier=tier)
        self.unfinished = 7

    def read(self) -> int:
        try:
            self.limits.take_read(self.account)
        except RefusedError as refusal:
            return seconds(refusal)
        return 0

    def poll(self, generation: str, hint: int = 1) -> int:
        try:
            self.limits.take_poll(self.account, generation)
        except RefusedError as refusal:
            return seconds(refusal)
        self.limits.note_hint(self.account.id, generation, hint)
        return 0

    def cancel(self) -> int:
        try:
            self.limits.take_cancel(self.account)
        except RefusedError as refusal:
            return seconds(refusal)
        return 0

    def submit(self, *, may_repeat: bool = False) -> int:
        """Send a message that is refused for its form."""
        try:
            attempt = self.limits.begin_submission(self.account, may_repeat=may_repeat)
        except RefusedError as refusal:
            return seconds(refusal)
        attempt.note_refused(WRONG, self.clock.now)
        return 0

    def do(self, what: str, generation: str) -> None:
        """Do something that may be refused."""
        match what:
            case "look":
                self.poll(generation)
            case "stranger":
                self.poll(ids.new_id())
            case "end":
                self.unfinished = max(0, self.unfinished - 1)
                self.limits.note_unfinished("ann", self.unfinished)
            case "read":
                self.read()
            case _:
                self.cancel()

    def exhaust_reads(self) -> int:
        """Read until reads are refused."""
        while not (wait_seconds := self.read()):
            pass
        return wait_seconds


def seconds(refusal: RefusedError) -> int:
    """Return the Retry-After of a refusal, after checking the rest of it."""
    assert refusal.code is Code.RATE_LIMITED
    assert refusal.retry_after_seconds is not None
    assert int(refusal.headers["ratelimit-limit"]) >= 1
    assert refusal.headers["ratelimit-remaining"] == "0"
    assert int(refusal.headers["ratelimit-reset"]) >= refusal.retry_after_seconds
    assert refusal.message.endswith(".")
    return refusal.retry_after_seconds


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ("free", Allowance(submissions=10, reads=300, cancels=300, refused=60, waits=100)),
        ("pro", Allowance(submissions=120, reads=1200, cancels=1200, refused=240, waits=200)),
        (
            "enterprise",
            Allowance(submissions=6000, reads=60_000, cancels=60_000, refused=12_000, waits=5000),
        ),
    ],
)
def test_limits_follow_the_tier(tier: TierName, expected: Allowance) -> None:
    assert Allowance.of(Settings(), tier) == expected


def test_a_tier_s_own_figures_go_before_those_that_follow() -> None:
    free = Tier(
        submissions_per_minute=50, running_max=150, reads_per_minute=7, refused_per_minute=8
    )
    configured = Settings(
        limits=LimitSettings(free=free), api=ApiSettings(reads_per_minute=9, waits_per_account=1)
    )
    assert Allowance.of(configured, "free") == Allowance(
        submissions=50, reads=7, cancels=500, refused=8, waits=150
    )
    plenty = Settings(api=ApiSettings(reads_per_minute=2000, waits_per_account=7000))
    assert Allowance.of(plenty, "pro").reads == 2000
    assert Allowance.of(plenty, "enterprise").waits == 7000


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_no_tier_contradicts_itself(submissions: int, running: int) -> None:
    tier = Tier(submissions_per_minute=submissions, running_max=running)
    allowed = Allowance.of(Settings(limits=LimitSettings(pro=tier)), "pro")
    assert allowed.reads >= 10 * submissions
    assert allowed.cancels >= 10 * submissions
    assert allowed.refused >= submissions
    assert allowed.waits >= running


def test_a_minute_s_submissions_may_all_be_awaited_and_polled() -> None:
    requests = Requests(tier="enterprise")
    for number in range(1, 601):
        requests.limits.note_unfinished("ann", number, is_new=True)
    assert not any(requests.read() for _ in range(60_000 + 60 * 600))
    assert requests.read() == 1


def test_what_ended_a_moment_ago_still_counts() -> None:
    requests = Requests()
    for number in range(1, 11):
        requests.limits.note_unfinished("ann", number, is_new=True)
    requests.limits.note_unfinished("ann", 0)
    requests.clock.now += 59
    assert not any(requests.read() for _ in range(300 + 60 * 10))
    assert requests.read()
    requests.clock.now += 200
    assert not any(requests.read() for _ in range(300))
    assert requests.read()


def test_what_is_read_beyond_a_first_piece_counts_as_reads_and_is_never_refused() -> None:
    requests = Requests()
    reads = requests.exhaust_reads()
    wait = requests.limits.take_further_read(requests.account)
    assert 0 < wait <= 60 / reads
    # Nothing was taken: a request after that time is served, and uses the token.
    requests.clock.now += wait
    assert requests.limits.take_further_read(requests.account) == 0
    assert requests.limits.take_further_read(requests.account) > 0
    assert requests.read() == 1


_deeds: Final = st.lists(
    st.tuples(
        st.sampled_from(["read", "look", "stranger", "cancel", "end"]), st.sampled_from([1, 2, 40])
    ),
    max_size=5,
)


@settings(max_examples=50)
@given(st.lists(st.tuples(_deeds, st.integers(1, 9), st.floats(0, 0.09)), max_size=12))
def test_a_poll_that_the_hint_allows_is_never_refused(
    course: list[tuple[list[tuple[str, int]], int, float]],
) -> None:
    """Whatever else the account does, in any order: read, poll too early, end its generations."""
    configured = Settings(
        limits=LimitSettings(free=Tier(submissions_per_minute=10, reads_per_minute=5)),
        api=ApiSettings(reads_per_unfinished=1),
    )
    requests = Requests(configured)
    obedient, others = ids.new_id(), [ids.new_id() for _ in range(6)]
    requests.limits.note_unfinished("ann", requests.unfinished)
    requests.exhaust_reads()
    for deeds, hint, early in course:
        assert requests.poll(obedient, hint) == 0
        for what, count in deeds:
            for number in range(count):
                requests.do(what, others[number % len(others)])
        requests.clock.now += hint - early


@given(st.integers(1, 30), st.floats(0, 29.8))
def test_a_poll_before_its_hint_gets_the_exact_retry_after(hint: int, early: float) -> None:
    configured = Settings(
        limits=LimitSettings(free=Tier(submissions_per_minute=10, reads_per_minute=1)),
        api=ApiSettings(reads_per_unfinished=1),
    )
    requests, generation = Requests(configured), ids.new_id()
    assert requests.exhaust_reads() == 60
    assert requests.poll(generation, hint) == 0
    requests.clock.now += min(early, hint - 0.2)
    wait_seconds = requests.poll(generation)
    assert wait_seconds == math.ceil(100.0 + hint - requests.clock.now)
    requests.clock.now += wait_seconds
    assert requests.poll(generation) == 0


def test_polls_of_unknown_generations_are_limited() -> None:
    requests = Requests()
    requests.exhaust_reads()
    served = [requests.poll(ids.new_id()) for _ in range(40)].count(0)
    assert served == 20
    assert requests.poll("no id at all")
    # A generation that was polled can be polled again.
    requests = Requests()
    requests.exhaust_reads()
    generation = ids.new_id()
    assert not requests.poll(generation)
    while not requests.poll(ids.new_id()):
        pass
    requests.clock.now += 1
    requests.exhaust_reads()
    assert not requests.poll(generation)


def test_cancels_and_deletions_are_refused_last() -> None:
    requests = Requests()
    requests.exhaust_reads()
    while not requests.submit():
        pass
    assert not any(requests.cancel() for _ in range(300))
    assert requests.cancel() == 1
    # With the cancels used up, it takes a read that is left.
    requests = Requests()
    assert not any(requests.cancel() for _ in range(600))
    assert requests.cancel() == 1
    assert requests.read() == 1


@pytest.mark.parametrize("what", ["read", "cancel", "submit"])
@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 50)), max_size=6))
def test_whoever_waits_as_long_as_told_is_served(
    what: str, course: list[tuple[int, float]]
) -> None:
    free = Tier(
        submissions_per_minute=3, reads_per_minute=5, cancels_per_minute=4, refused_per_minute=7
    )
    configured = Settings(limits=LimitSettings(free=free), api=ApiSettings(reads_per_unfinished=2))
    requests = Requests(configured)
    for unfinished, pause in course:
        requests.limits.note_unfinished("ann", unfinished)
        while not (wait_seconds := getattr(requests, what)()):
            pass
        requests.clock.now += wait_seconds
        assert getattr(requests, what)() == 0
        requests.clock.now += pause


def test_a_submission_that_is_accepted_costs_nothing_here() -> None:
    requests = Requests()
    for _ in range(1_000):
        attempt = requests.limits.begin_submission(requests.account, may_repeat=False)
        attempt.give_back()
        # However its generation ends, it was accepted.
        attempt.note_refused(WRONG, requests.clock.now)
    # Submissions under way count.
    begun = [
        requests.limits.begin_submission(requests.account, may_repeat=False) for _ in range(60)
    ]
    assert requests.submit()
    begun[0].give_back()
    begun[0].give_back()
    assert not requests.submit()
    assert requests.submit()


def test_repeated_submissions_have_a_limit_of_their_own() -> None:
    requests = Requests()
    for _ in range(60):
        assert requests.limits.replays_refusal(requests.account) is None
        requests.limits.begin_submission(requests.account, may_repeat=True).note_replayed()
    refusal = requests.limits.replays_refusal(requests.account)
    assert refusal is not None
    wait_seconds = seconds(refusal)
    assert not requests.submit()
    requests.clock.now += wait_seconds
    assert requests.limits.replays_refusal(requests.account) is None


def test_beyond_the_limit_in_redis_nobody_asks_it_again_before_the_time() -> None:
    requests = Requests()
    requests.limits.note_limited(
        "ann", Rate(limit=10, remaining=0, reset_ms=60_000, retry_ms=5_500)
    )
    with pytest.raises(RefusedError) as caught:
        requests.limits.begin_submission(requests.account, may_repeat=False)
    assert seconds(caught.value) == 6
    assert caught.value.headers["ratelimit-limit"] == "10"
    assert caught.value.headers["ratelimit-reset"] == "60"
    # One with a key may be a repeat; after a change of tier there is another limit.
    assert not requests.submit(may_repeat=True)
    better = Account(id="ann", partition=0, created=0, tier="pro")
    requests.limits.begin_submission(better, may_repeat=False)
    requests.clock.now += 5.5
    assert not requests.submit()


def test_a_retry_after_satisfies_the_next_limit_too() -> None:
    free = Tier(submissions_per_minute=10, refused_per_minute=1)
    requests = Requests(Settings(limits=LimitSettings(free=free)))
    attempt = requests.limits.begin_submission(requests.account, may_repeat=True)
    limited = RefusedError("too many", Code.RATE_LIMITED, retry_after_seconds=6)
    requests.limits.note_limited(
        "ann", Rate(limit=10, remaining=0, reset_ms=60_000, retry_ms=90_000)
    )
    attempt.note_refused(limited, requests.clock.now)
    assert limited.retry_after_seconds == 60
    # By the limit of refused submissions alone it would be 60 s.
    assert requests.submit(may_repeat=True) == 90
