"""How fast the items of a batch end: its rate, when it may end, what it will cost, when to poll it.

Owns the arithmetic; all of it comes from what the batch's record measured. Pure.

DESIGN. `marks` are how many items had ended at some of the last seconds. The rate is what ended
since the first of them, up to now, so that it falls while nothing ends. The ETA is what is left, at
that rate; for p90, at the rate that the mean of the seconds to come stays above nine times of ten.
E.g. seconds with 10, 30, 20 and 20 ends: 20 a second, give or take 4.1 (a deviation of 8.2 over the
root of 4 seconds). The seconds to come differ from their mean just so: with 4 s left, it is 4.1
times the root of 2, and p90 is by 20 - 1.28 * 5.8 = 12.6 a second. Slow seconds often follow each
other, so that their mean varies more than the single ones show: two, four and eight together are
looked at, too, and the widest deviation counts. What was before a pause or a retry, as a gap among
the marks shows, does not count.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Final, NamedTuple

from api.polling.eta import Eta
from shared.wire.batch import Batch

# Of a normal distribution, a tenth lies further than so many deviations below the mean.
_DEVIATIONS_P90: Final = 1.2816
# The deviation of fewer rates says little.
_RATES_MIN: Final = 4
# However unevenly items end, p90 is at most so many times p50.
_SPREAD_MAX: Final = 4.0
HINT_SECONDS_MAX: Final = 30
_HINT_SECONDS_UNKNOWN: Final = 5
# Marks so many times as far apart as most are, and at least so many ms, were not one run.
_GAP_TIMES: Final = 10
_GAP_MS_MIN: Final = 15_000
# A batch is polled so many times in the time that is left, as the estimate becomes better.
_POLLS_LEFT: Final = 6


class Pace(NamedTuple):
    """What a batch's measurements say; None where they say nothing. Credits in microcredits."""

    progress: int
    items_per_second: float | None
    eta: Eta | None
    forecast: int | None
    hint: int


def of(batch: Batch, now_ms: int) -> Pace:
    """Return a batch's pace at a moment of Redis' clock."""
    if batch.finished is not None:
        return Pace(100, _overall_rate(batch), None, batch.used, 1)
    progress = min(99, 100 * batch.ended // batch.total) if batch.total else 0
    marks = _recent_marks(batch)
    rate = _recent_rate(marks, now_ms) if batch.state == "running" else None
    eta = None if rate is None else _eta(batch, rate, marks)
    return Pace(progress, rate, eta, _forecast(batch), _hint(batch, eta))


def _overall_rate(batch: Batch) -> float | None:
    if batch.started is None or batch.finished is None or batch.finished <= batch.started:
        return None
    return batch.ended * 1000 / (batch.finished - batch.started)


def _recent_marks(batch: Batch) -> Sequence[tuple[int, int]]:
    """Return the marks since the last long gap; a single one counts from the batch's beginning."""
    marks = batch.marks
    if len(marks) == 1:
        return ((batch.started or batch.created, 0), *marks)
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(marks)]
    gap_max = max(_GAP_MS_MIN, _GAP_TIMES * statistics.median(gaps)) if gaps else 0
    begin = max((at + 1 for at, gap in enumerate(gaps) if gap > gap_max), default=0)
    return marks[begin:]


def _recent_rate(marks: Sequence[tuple[int, int]], now_ms: int) -> float | None:
    if len(marks) <= 1:
        return None
    (first_ms, first), (last_ms, last) = marks[0], marks[-1]
    seconds = (max(now_ms, last_ms) - first_ms) / 1000
    return (last - first) / seconds if seconds > 0 else None


def _eta(batch: Batch, rate: float, marks: Sequence[tuple[int, int]]) -> Eta | None:
    left = max(0, batch.waiting + batch.open)
    if rate <= 0:
        return None
    measured_seconds = (marks[-1][0] - marks[0][0]) / 1000
    to_come = math.sqrt(1 + measured_seconds * rate / max(left, rate))
    slow = max(rate - _DEVIATIONS_P90 * to_come * _deviation(marks), rate / _SPREAD_MAX)
    return Eta(left / rate, left / slow)


def _deviation(marks: Sequence[tuple[int, int]]) -> float:
    """Return how far the mean of the marks' rates may be off, by single seconds or by several."""
    rates = _rates(marks)
    if len(rates) <= 1:
        return math.inf
    widest, step = 0.0, 1
    while step == 1 or len(rates) >= _RATES_MIN:
        widest = max(widest, statistics.stdev(rates) / math.sqrt(len(rates)))
        step *= 2
        rates = _rates(marks[::step])
    return widest


def _rates(marks: Sequence[tuple[int, int]]) -> list[float]:
    return [
        (then - before) * 1000 / (then_ms - before_ms)
        for (before_ms, before), (then_ms, then) in itertools.pairwise(marks)
        if then_ms > before_ms
    ]


def _forecast(batch: Batch) -> int | None:
    """Return what all will cost if the rest costs what the items so far did, wrong lines apart."""
    if batch.stop is not None:
        return batch.used
    passed = batch.invalid * batch.position // batch.total if batch.total else 0
    measured = batch.ended - passed
    if measured <= 0 or not batch.completed:
        return None
    left = batch.waiting + batch.open - (batch.invalid - passed)
    return batch.used + max(0, left) * batch.used // measured


def _hint(batch: Batch, eta: Eta | None) -> int:
    if batch.stop is not None:
        return 1
    if batch.state == "paused":
        return HINT_SECONDS_MAX
    if eta is None:
        return _HINT_SECONDS_UNKNOWN
    return max(1, min(HINT_SECONDS_MAX, math.ceil(eta.p50 / _POLLS_LEFT)))
