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
_LEAST_SECONDS: Final = 2.0
_BETWEEN: Final = math.sqrt(_GROWTH)
# An answer may take less than any that is known.
_SHORTER_SHARE: Final = 0.8
# A plan is made from this many durations at most: the search takes time with their square.
_SAMPLES_MAX: Final = 16
# More than all lateness that a plan may sum up to otherwise.
_PENALTY_SECONDS: Final = 1_000.0

# How many polls an answer of so many seconds may take.
Allowed = Callable[[float], float]


class Limits(NamedTuple):
    """What a plan keeps to: polls made before it, polls allowed, and the longest hint."""

    polls_before: int
    allowed: Allowed
    hint_seconds_max: int


class _Look(NamedTuple):
    """A look that a plan may have: when, and how many of the answers have ended by then."""

    second: int
    ended: int


class _Way(NamedTuple):
    """The best way to a look with so many polls: what it costs, and which look came before."""

    cost: float
    before: int
    polls_before: int


def looks(durations: Sequence[float], settling_seconds: float, limits: Limits) -> list[int]:
    """Return the best plan for such answers, sorted; none where no plan keeps to the polls."""
    stride = 1 + (len(durations) - 1) // _SAMPLES_MAX
    sample = durations[::-stride][::-1]
    behind = [math.ceil(each + settling_seconds) for each in sample]
    seconds = _seconds(behind, limits.hint_seconds_max)
    places = [_Look(0, 0), *(_Look(x, bisect.bisect_right(behind, x)) for x in seconds)]
    ways = _ways(sample, places, limits)
    return _path(places, ways) if ways[-1] else []


def unguarded(looks: Sequence[int], shortest: float) -> float:
    """Return in how much of a plan's time an end is found later than half the time waited.

    It is a logarithm: the gaps of one plan with those of another are compared in proportion.
    """
    found = 0.0
    for begin, look in itertools.pairwise([shortest * _SHORTER_SHARE, *looks]):
        until = min(look / _GROWTH, look - _LEAST_SECONDS)
        found += math.log(until / begin) if until > begin > 0 else 0.0
    return found


def _seconds(behind: Sequence[int], step_max: int) -> list[int]:
    """Return when a plan may look; the last look is for what takes longer than all known."""
    longest = behind[-1]
    beyond = min(_latest_after(longest), longest + step_max)
    return sorted({*behind, *_evenly(longest), beyond})


def _evenly(until: int) -> Iterator[int]:
    second = _LEAST_SECONDS
    while second < until:
        yield int(second)
        second *= _BETWEEN


def _latest_after(second: int) -> int:
    return int(max(second + _LEAST_SECONDS, second * _GROWTH))


def _ways(
    sample: Sequence[float], places: Sequence[_Look], limits: Limits
) -> list[dict[int, _Way]]:
    """Return for each look, by the polls made with it, the best way there."""
    sums = [0.0, *itertools.accumulate(sample)]
    ways: list[dict[int, _Way]] = [{} for _ in places]
    ways[0][limits.polls_before] = _Way(0.0, 0, 0)
    for at, here in enumerate(places):
        earliest = here.second or sample[0] * _SHORTER_SHARE
        most = limits.allowed(earliest)
        latest = _latest_after(here.second) if here.second else max(_LEAST_SECONDS, sample[0])
        for to in range(at + 1, len(places)):
            there = places[to]
            late = there.second * (there.ended - here.ended) - sums[there.ended] + sums[here.ended]
            if there.second > latest:
                late += _PENALTY_SECONDS * there.second / latest
            polls = -(-(there.second - here.second) // limits.hint_seconds_max)
            for made, way in ways[at].items():
                if made + polls <= most:
                    found = _Way(way.cost + late, at, made)
                    known = ways[to].get(made + polls, found)
                    ways[to][made + polls] = min(known, found)
    return ways


def _path(places: Sequence[_Look], ways: Sequence[dict[int, _Way]]) -> list[int]:
    """Return the looks of the best way to the last."""
    at = len(places) - 1
    polls = min(ways[at], key=lambda made: ways[at][made])
    found = []
    while at:
        found.append(places[at].second)
        way = ways[at][polls]
        at, polls = way.before, way.polls_before
    return found[::-1]
