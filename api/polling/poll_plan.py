"""When to poll answers whose durations do not predict the end, so that none is found very late.

Owns the search for the best plan of polls, in whole seconds after an answer's start. eta.py passes
what was measured and how many polls are allowed.

DESIGN. As far as the allowed polls suffice, each poll follows the one before within half of the
time waited until then (after 20 s, at 30 s or earlier). Among such plans, the best finds the known
answers together earliest. The cost of a step between two polls depends only on its two ends and
the number of polls so far, so the best way to each poll follows from the best ways to those before
it (dynamic programming). Candidates are the seconds just after known durations, and evenly spaced
ones (in proportion) between them, where an answer may end though none has yet.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

# The time until the next poll is at most this much longer than the time until the last one.
_GROWTH: Final = 1.5
_GAP_SECONDS_MIN: Final = 2.0
_STEP_FACTOR: Final = math.sqrt(_GROWTH)
# An answer may be shorter than all known ones, down to this share of the shortest.
_SHORTER_SHARE: Final = 0.8
# A plan uses at most this many durations: the search is quadratic.
_SAMPLES_MAX: Final = 16
# Larger than any sum of lateness: a plan with a gap loses against every plan without.
_PENALTY_SECONDS: Final = 1_000.0

# From an answer's duration in seconds to the number of polls it may take.
PollsAllowed = Callable[[float], float]


class PollLimits(NamedTuple):
    """Polls made before, polls allowed, and the longest hint."""

    polls_before: int
    allowed: PollsAllowed
    hint_seconds_max: int


class _Poll(NamedTuple):
    """A candidate: its second, and how many of the known answers have ended by then."""

    second: int
    ended: int


class _PlanStep(NamedTuple):
    """The best way to a poll with some number of polls: its cost, and the poll before."""

    cost: float
    before: int
    polls_before: int


def poll_times(
    durations: Sequence[float], settling_seconds: float, limits: PollLimits
) -> list[int]:
    """Return the best plan, sorted; empty if no plan stays within the allowed polls."""
    stride = 1 + (len(durations) - 1) // _SAMPLES_MAX
    sample = durations[::-stride][::-1]
    visible_at = [math.ceil(each + settling_seconds) for each in sample]
    seconds = _candidate_seconds(visible_at, limits.hint_seconds_max)
    candidates = [_Poll(0, 0), *(_Poll(x, bisect.bisect_right(visible_at, x)) for x in seconds)]
    steps = _best_steps(sample, candidates, limits)
    return _trace_back(candidates, steps) if steps[-1] else []


def late_gap(poll_times: Sequence[int], shortest: float) -> float:
    """Return for how much of a plan's time an end is found later than half the time waited.

    It is a logarithm, so that gaps are compared in proportion.
    """
    found = 0.0
    for begin, poll_time in itertools.pairwise([shortest * _SHORTER_SHARE, *poll_times]):
        until = min(poll_time / _GROWTH, poll_time - _GAP_SECONDS_MIN)
        found += math.log(until / begin) if until > begin > 0 else 0.0
    return found


def _candidate_seconds(visible_at: Sequence[int], step_max: int) -> list[int]:
    """Return when a plan may poll; the last poll is for answers longer than all known."""
    longest = visible_at[-1]
    beyond = min(_latest_after(longest), longest + step_max)
    return sorted({*visible_at, *_geometric_seconds(longest), beyond})


def _geometric_seconds(until: int) -> Iterator[int]:
    second = _GAP_SECONDS_MIN
    while second < until:
        yield int(second)
        second *= _STEP_FACTOR


def _latest_after(second: int) -> int:
    return int(max(second + _GAP_SECONDS_MIN, second * _GROWTH))


def _best_steps(
    sample: Sequence[float], candidates: Sequence[_Poll], limits: PollLimits
) -> list[dict[int, _PlanStep]]:
    """Return for each candidate, by the number of polls up to it, the best way there."""
    sums = [0.0, *itertools.accumulate(sample)]
    steps: list[dict[int, _PlanStep]] = [{} for _ in candidates]
    steps[0][limits.polls_before] = _PlanStep(0.0, 0, 0)
    for index, source in enumerate(candidates):
        earliest = source.second or sample[0] * _SHORTER_SHARE
        polls_max = limits.allowed(earliest)
        latest = _latest_after(source.second) if source.second else max(_GAP_SECONDS_MIN, sample[0])
        for target_index in range(index + 1, len(candidates)):
            target = candidates[target_index]
            late = (
                target.second * (target.ended - source.ended)
                - sums[target.ended]
                + sums[source.ended]
            )
            if target.second > latest:
                late += _PENALTY_SECONDS * target.second / latest
            polls = -(-(target.second - source.second) // limits.hint_seconds_max)
            for polls_so_far, step in steps[index].items():
                if polls_so_far + polls <= polls_max:
                    found = _PlanStep(step.cost + late, index, polls_so_far)
                    known = steps[target_index].get(polls_so_far + polls, found)
                    steps[target_index][polls_so_far + polls] = min(known, found)
    return steps


def _trace_back(candidates: Sequence[_Poll], steps: Sequence[dict[int, _PlanStep]]) -> list[int]:
    """Return the polls on the best way to the last candidate."""
    index = len(candidates) - 1
    polls = min(steps[index], key=lambda polls_so_far: steps[index][polls_so_far])
    found = []
    while index:
        found.append(candidates[index].second)
        step = steps[index][polls]
        index, polls = step.before, step.polls_before
    return found[::-1]
