"""The token bucket, and the count of recent generations, over random sequences of events."""

import math
from typing import Final

from hypothesis import given, settings, strategies as st

from api.guards.token_buckets import RecentGenerations, TokenBucket

_sizes: Final = st.integers(1, 500)
_pauses: Final = st.one_of(
    st.just(0.0), st.floats(0, 3, allow_nan=False), st.sampled_from([59.9, 60.0, 61.0, 300.0])
)


@settings(max_examples=60)
@given(st.lists(st.tuples(_sizes, _pauses, st.integers(0, 40)), min_size=1, max_size=6), _sizes)
def test_who_waits_as_long_as_told_is_let_through_even_if_the_size_has_changed(
    course: list[tuple[int, float, int]], size_then: int
) -> None:
    now = 1_000.0
    bucket = TokenBucket(now)
    for size, pause, wanted in course:
        now += pause
        for _ in range(wanted):
            wait = bucket.wait_seconds(size, now)
            if wait:
                break
            bucket.take()
    while not (wait := bucket.wait_seconds(size, now)):
        bucket.take()
    assert bucket.reset_seconds >= wait - 1e-6
    told = math.ceil(wait)
    assert bucket.wait_seconds(size_then, now + told) == 0


@settings(max_examples=60)
@given(_sizes, st.lists(_pauses, max_size=8))
def test_no_more_than_its_size_and_what_comes_back_is_ever_taken(
    size: int, pauses: list[float]
) -> None:
    bucket = TokenBucket(0.0)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        while not bucket.wait_seconds(size, now):
            bucket.take()
            taken += 1
            assert taken <= size + now * size / 60 + 1e-3
    if pauses:
        # An available token is not withheld either.
        assert taken >= size


def test_a_bucket_that_grows_may_be_used_at_once_and_what_is_given_back_again() -> None:
    bucket = TokenBucket(0.0)
    for _ in range(5):
        assert not bucket.wait_seconds(5, 0.0)
        bucket.take()
    assert bucket.wait_seconds(5, 0.0) == 12.0
    for _ in range(60):
        assert not bucket.wait_seconds(65, 0.0)
        bucket.take()
    assert bucket.wait_seconds(65, 0.0) > 0
    bucket.give_back()
    assert not bucket.wait_seconds(65, 0.0)


_steps: Final = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.just(0.0)),
        st.tuples(st.just("end"), st.just(0.0)),
        st.tuples(st.just("look"), st.just(0.0)),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 29.9, 30.0, 60.0, 61.0, 119.0, 500.0])),
    ),
    max_size=60,
)  # fmt: skip


@given(_steps)
def test_no_generation_that_is_unfinished_or_just_ended_goes_uncounted(
    steps: list[tuple[str, float]],
) -> None:
    now = 50.0
    recent = RecentGenerations(now)
    unfinished, ends = 0, list[float]()
    for what, seconds in steps:
        if what == "accept":
            unfinished += 1
            recent.note(unfinished, now, is_new=True)
        elif what == "end" and unfinished:
            unfinished -= 1
            ends.append(now)
        elif what == "look":
            recent.note(unfinished, now)
        now += seconds
        at_least = unfinished + sum(now - end <= 60 for end in ends)
        assert recent.count(now) >= at_least


def test_what_ended_long_ago_counts_no_more_once_that_is_known() -> None:
    recent = RecentGenerations(0.0)
    for number in range(1, 6):
        recent.note(number, 0.0, is_new=True)
    recent.note(0, 10.0)
    assert recent.count(10.0) == recent.count(69.0) == 5
    assert recent.count(130.0) == 0
    # Of another process' generations, only their number is known.
    recent.note(7, 131.0)
    recent.note(3, 132.0)
    assert recent.count(132.0) == 7
    recent.note(4, 133.0, is_new=True)
    assert recent.count(133.0) == 8
    assert recent.count(600.0) == 4
