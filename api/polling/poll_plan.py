"""When to look at answers whose durations do not tell the end: none is found very late.

Owns the search for the best plan of looks, in whole seconds from the start of an answer. Refuses to
know what was measured and what is allowed: pace says both.

DESIGN. As far as the polls allowed suffice, a look comes no later after the one before it than half
the time waited; among such plans, the best makes the known answers together known earliest. What a
step from one look to the next costs depends only on its two ends and the polls made so far, so the
best way to each look is found from the ways to those before it. Looks are behind known durations,
and at seconds in between, evenly spaced in proportion: where no answer ended, one may end.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

# So much longer than the time waited until one look is the time waited until the next, at most.
_GROWTH: Final = 1.5
_GAP_SECONDS_MIN: Final = 2.0
_STEP_FACTOR: Final = math.sqrt(_GROWTH)
# An answer may take less than any that is known.
_SHORTER_SHARE: Final = 0.8
# A plan is made from this many durations at most: the search takes time with their square.
_SAMPLES_MAX: Final = 16
# More than all lateness that a plan may sum up to otherwise.
_PENALTY_SECONDS: Final = 1_000.0

# How many polls an answer of so many seconds may take.
PollsAllowed = Callable[[float], float]


class PollLimits(NamedTuple):
    """What a plan keeps to: polls made before it, polls allowed, and the longest hint."""

    polls_before: int
    allowed: PollsAllowed
    hint_seconds_max: int


class _Poll(NamedTuple):
    """A look that a plan may have: when, and how many of the answers have ended by then."""

    second: int
    ended: int


class _PlanStep(NamedTuple):
    """The best way to a look with so many polls: what it costs, and which look came before."""

    cost: float
    before: int
    polls_before: int


def poll_times(
    durations: Sequence[float], settling_seconds: float, limits: PollLimits
) -> list[int]:
    """Return the best plan for such answers, sorted; none where no plan keeps to the polls."""
    stride = 1 + (len(durations) - 1) // _SAMPLES_MAX
    sample = durations[::-stride][::-1]
    visible_at = [math.ceil(each + settling_seconds) for each in sample]
    seconds = _candidate_seconds(visible_at, limits.hint_seconds_max)
    candidates = [_Poll(0, 0), *(_Poll(x, bisect.bisect_right(visible_at, x)) for x in seconds)]
    steps = _best_steps(sample, candidates, limits)
    return _trace_back(candidates, steps) if steps[-1] else []


def late_gap(poll_times: Sequence[int], shortest: float) -> float:
    """Return in how much of a plan's time an end is found later than half the time waited.

    It is a logarithm: the gaps of one plan with those of another are compared in proportion.
    """
    found = 0.0
    for begin, poll_time in itertools.pairwise([shortest * _SHORTER_SHARE, *poll_times]):
        until = min(poll_time / _GROWTH, poll_time - _GAP_SECONDS_MIN)
        found += math.log(until / begin) if until > begin > 0 else 0.0
    return found


def _candidate_seconds(visible_at: Sequence[int], step_max: int) -> list[int]:
    """Return when a plan may look; the last look is for what takes longer than all known."""
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
    """Return for each look, by the polls made with it, the best way there."""
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
    """Return the looks of the best way to the last."""
    index = len(candidates) - 1
    polls = min(steps[index], key=lambda polls_so_far: steps[index][polls_so_far])
    found = []
    while index:
        found.append(candidates[index].second)
        step = steps[index][polls]
        index, polls = step.before, step.polls_before
    return found[::-1]
