"""Poll hints and ETA, computed from how long a model's last answers took.

Owns the policy that contract 2 measures: a client that obeys the hints should learn of the end soon
after it, with few polls. Without measurements it assumes the catalogue's estimate, and a range
around it.

DESIGN. The known durations make a plan: the whole seconds of an answer's life at which to poll it.
The plan starts with one poll, just after the longest duration. Then polls are added one by one,
each where it saves those answers the most waiting in sum, as long as the saving is worth a poll and
no answer would be polled more often than the contract allows. E.g. durations of 2 s and 20 s give
polls at 3 s and 21 s. So similar durations need one or two polls just after them, distinct groups
one poll each, and widely spread durations get polls spread as widely. If the allowed polls do not
suffice for that, durations do not predict the end, and poll_plan.py plans instead: no poll comes
later than half of the time waited so far. For the few answers that take far longer than all others,
polls continue at growing intervals. A hint is the time until the plan's next poll.

An answer that was queued first has been polled by then; its plan uses the polls that are left.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, NamedTuple, Self

from api.polling import poll_plan
from api.refresh_ahead_cache import RefreshAheadCache
from shared.catalogue import CatalogueHolder
from shared.clock import Clock
from shared.redis.client import Connection
from shared.stores import answer_durations
from shared.wire.submission import AUTO

HINT_SECONDS_MAX: Final = 30
HINT_SECONDS_UNKNOWN: Final = 2
_TRUSTED_SECONDS: Final = 4.0
_UNKNOWN_SECONDS: Final = 5.0
# Without a measured answer, the catalogue's estimate may be wrong by these factors.
PRIOR_FACTORS: Final = (0.15, 0.3, 0.6, 1.0, 1.8, 3.0, 6.0)
_COMMON_SHARE: Final = 0.95
# Fewer answers than this may not show how much durations vary: after a single one, the next may
# well take twice or half as long.
_SAMPLE_ENOUGH: Final = 16
_UNCERTAINTY_OF_ONE: Final = 0.8
# A plan uses at most this many durations: more make it no better.
_SAMPLES_MAX: Final = 64
# A poll is worth it if the average answer is found this much earlier.
_WORTH_SECONDS: Final = 0.05
# The time that settling takes, and how much a poll may come before its whole second.
_SETTLING_SECONDS: Final = 0.02
_EARLY_SECONDS: Final = 0.1
_BEYOND_SHARE: Final = 0.05
# Durations predict the end if half of the answers are found within the first figure, and all but a
# few within the second, or within this share of their duration.
_LATE_TYPICAL_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 2.0
_LATE_SHARE: Final = 0.1
_SHORTEST_SECONDS: Final = 0.001


class Eta(NamedTuple):
    """Seconds until the end: by then half, and nine tenths, of similar answers had ended."""

    p50: float
    p90: float


class PriorWait(NamedTuple):
    """How long an answer was queued before it began, and how many polls that took at most.

    The seconds are rounded down to a power of two, so that few plans serve all waits.
    """

    seconds: int = 0
    polls: int = 0

    @classmethod
    def of(cls, waited: float, polls: int) -> Self:
        """Return it for a wait; a wait under one second counts as none."""
        return cls(2 ** int(math.log2(waited)), polls) if waited >= 1 and polls else cls()


NO_PRIOR_WAIT: Final = PriorWait()


class KnownDurations:
    """How long answers took, sorted, and the plan for polling a similar one."""

    def __init__(self, durations: tuple[float, ...]) -> None:
        self.durations = durations
        self._plans: dict[PriorWait, tuple[int, ...]] = {}

    @cached_property
    def typical_seconds(self) -> float:
        """The median duration."""
        return max(_SHORTEST_SECONDS, _quantile(self.durations, 0.5))

    @cached_property
    def margin_seconds(self) -> float:
        """How much shorter than the median the shortest tenth is."""
        return self.typical_seconds - _quantile(self.durations, 0.1)

    def poll_times(self, prior: PriorWait = NO_PRIOR_WAIT) -> tuple[int, ...]:
        """Return the plan: the whole seconds after its start at which to poll an answer."""
        if prior not in self._plans:
            self._plans[prior] = _plan(self.durations, prior)
        return self._plans[prior]

    @cached_property
    def first_poll_covers_seconds(self) -> float:
        """The longest duration of those answers that the first poll finds ended."""
        found = bisect.bisect_right(self.durations, self.poll_times()[0] - _SETTLING_SECONDS)
        return self.durations[max(0, found - 1)] + _SETTLING_SECONDS

    @classmethod
    def of(cls, durations: Iterable[float]) -> Self:
        """Make it from at least one duration."""
        return cls(tuple(sorted(durations)))


class ModelDurations:
    """The measured durations of the models asked for recently."""

    def __init__(self, redis: Connection, catalogue_holder: CatalogueHolder, clock: Clock) -> None:
        self._redis = redis
        self._catalogue_holder = catalogue_holder
        self._known = RefreshAheadCache(self._load, clock, trusted_seconds=_TRUSTED_SECONDS)

    async def durations(self, root: str, model: str) -> KnownDurations:
        """Return a model's durations, or a range around the catalogue's estimate."""
        return await self._known.get((root, model))

    async def _load(self, name: tuple[str, str]) -> KnownDurations:
        root, model = name
        measured = await answer_durations.durations_ms(self._redis, root, model)
        prior_seconds = self._prior_seconds(model)
        durations = [each / 1000 for each in measured]
        return KnownDurations.of(
            widen(durations) if durations else [prior_seconds * factor for factor in PRIOR_FACTORS]
        )

    def _prior_seconds(self, name: str) -> float:
        """Return the catalogue's estimate; for `auto`, that of its first model."""
        catalogue = self._catalogue_holder.catalogue
        first = catalogue.models[0] if name == AUTO and catalogue.models else None
        model = first or catalogue.by_identifier.get(name)
        return _UNKNOWN_SECONDS if model is None else model.estimated_duration_seconds


def widen(measured: list[float]) -> list[float]:
    """Return measured durations; if they are few, with others that similar answers may take."""
    if len(measured) >= _SAMPLE_ENOUGH:
        return measured
    middle, factor = (
        _quantile(sorted(measured), 0.5),
        1 + _UNCERTAINTY_OF_ONE / math.sqrt(len(measured)),
    )
    return [*measured, *(middle * factor**power for power in (-2, -1, 1, 2))]


def hint_while_waiting(known: KnownDurations, wait: float) -> int:
    """Return in how many whole seconds, 1 to 30, to poll an answer that is queued."""
    return max(1, min(HINT_SECONDS_MAX, math.ceil(wait + known.first_poll_covers_seconds)))


def hint(known: KnownDurations, elapsed: float, prior: PriorWait = NO_PRIOR_WAIT) -> int:
    """Return in how many whole seconds, 1 to 30, to poll again.

    `elapsed` is the time since the answer began, in seconds.
    """
    poll_times = known.poll_times(prior)
    following = bisect.bisect_right(poll_times, elapsed + _EARLY_SECONDS)
    if following == len(poll_times):
        return HINT_SECONDS_MAX
    return min(HINT_SECONDS_MAX, math.ceil(poll_times[following] - elapsed - _EARLY_SECONDS))


def _plan(durations: tuple[float, ...], prior: PriorWait) -> tuple[int, ...]:
    """Return the seconds at which to poll, the last of them beyond all known durations."""
    # The few longest get no polls planned here: polls at growing intervals will find them.
    common = durations[: math.ceil(_COMMON_SHARE * len(durations))]
    stride = 1 + (len(common) - 1) // _SAMPLES_MAX
    sample = common[::-stride][::-1]
    poll_times = _worthwhile_poll_times(sample, prior)
    plan = (*poll_times, *_poll_times_beyond(poll_times, prior, durations[-1]))
    if _is_predictable(sample, plan):
        return plan
    poll_times = poll_plan.poll_times(sample, _SETTLING_SECONDS, _limits(prior)) or poll_times
    other = (*poll_times, *_poll_times_beyond(poll_times, prior, durations[-1]))
    return min(plan, other, key=lambda each: _gaps_and_lateness(durations, each))


def _worthwhile_poll_times(sample: tuple[float, ...], prior: PriorWait) -> list[int]:
    """Return a poll after the longest duration, and all earlier ones that are worth it."""
    visible_at = [math.ceil(duration + _SETTLING_SECONDS) for duration in sample]
    poll_times = [visible_at[-1]]
    rejected: set[int] = set()
    while (poll_time := _best_poll_time(visible_at, poll_times, rejected)) is not None:
        more = sorted((*poll_times, poll_time))
        if _is_allowed(sample, visible_at, more, prior):
            poll_times = more
        else:
            rejected.add(poll_time)
    return poll_times


def _limits(prior: PriorWait) -> poll_plan.PollLimits:
    def allowed(seconds: float) -> float:
        return _polls_max(prior.seconds + seconds)

    return poll_plan.PollLimits(prior.polls, allowed, HINT_SECONDS_MAX)


def _lateness(sample: tuple[float, ...], poll_times: tuple[int, ...]) -> list[float]:
    """Return how long after its end each answer is found; beyond all polls, the longest hint."""
    found = (bisect.bisect_left(poll_times, each + _SETTLING_SECONDS) for each in sample)
    return [
        poll_times[index] - each if index < len(poll_times) else HINT_SECONDS_MAX
        for index, each in zip(found, sample, strict=True)
    ]


def _is_predictable(sample: tuple[float, ...], poll_times: tuple[int, ...]) -> bool:
    """Whether this plan finds such answers as early as a predictable end allows."""
    late = _lateness(sample, poll_times)
    pairs = zip(late, sample, strict=True)
    late_count = sum(each > max(_LATE_SECONDS, _LATE_SHARE * seconds) for each, seconds in pairs)
    is_soon = _quantile(sorted(late), 0.5) <= _LATE_TYPICAL_SECONDS
    return is_soon and late_count <= (1 - _COMMON_SHARE) * len(sample)


def _gaps_and_lateness(
    durations: tuple[float, ...], poll_times: tuple[int, ...]
) -> tuple[float, float]:
    """Return the order of plans: first by gaps in which an end is found late, then by lateness."""
    gaps = poll_plan.late_gap(poll_times, max(durations[0], _SHORTEST_SECONDS))
    return round(gaps, 1), sum(_lateness(durations, poll_times))


def _best_poll_time(visible_at: list[int], poll_times: list[int], rejected: set[int]) -> int | None:
    """Return the poll that finds all together earliest; None when none is worth it."""
    best_saving, best = _WORTH_SECONDS * len(visible_at), None
    first = 0
    for poll_time in poll_times:
        last = bisect.bisect_right(visible_at, poll_time)
        for index in range(first, last):
            saved = (index + 1 - first) * (poll_time - visible_at[index])
            if saved >= best_saving and visible_at[index] not in rejected:
                best_saving, best = saved, visible_at[index]
        first = last
    return best


def _is_allowed(
    sample: tuple[float, ...], visible_at: list[int], poll_times: list[int], prior: PriorWait
) -> bool:
    """Whether such answers, and one a little longer, stay within the allowed polls."""
    polls, last = prior.polls, 0
    for poll_time in poll_times:
        polls += _polls_between(last, poll_time)
        if polls > _polls_max(prior.seconds + sample[bisect.bisect_right(visible_at, last)]):
            return False
        last = poll_time
    return polls + 1 <= _polls_max(prior.seconds + sample[-1])


def _polls_max(seconds: float) -> float:
    """Return the contract's bound; a very long answer needs more, since hints have a maximum."""
    return max(4 + math.log2(max(1.0, seconds)), 3 + seconds / HINT_SECONDS_MAX)


def _poll_times_beyond(poll_times: list[int], prior: PriorWait, longest: float) -> Iterator[int]:
    """Yield polls for longer answers: at growing intervals, as far as polls are left.

    After them, hints of the maximum length lead to the longest known duration.
    """
    poll_time, polls = poll_times[-1], _polls_at(poll_times, prior)
    step = max(1, round(_BEYOND_SHARE * poll_time))
    while step < HINT_SECONDS_MAX:
        if _has_polls_left(polls + 1, prior.seconds, poll_time + step, longest):
            poll_time += step
            polls += 1
            yield poll_time
            step *= 2
        else:
            step += 1


def _has_polls_left(polls: int, waited: int, poll_time: int, longest: float) -> bool:
    """Whether an answer that outlasts this poll stays within the allowed polls."""
    later = range(poll_time, max(poll_time, math.ceil(longest)) + 1, HINT_SECONDS_MAX)
    return all(polls + number + 1 <= _polls_max(waited + each) for number, each in enumerate(later))


def _polls_at(poll_times: list[int], prior: PriorWait) -> int:
    """Return how many polls were made by the last one of these."""
    pairs = zip((0, *poll_times), poll_times, strict=False)
    return prior.polls + sum(_polls_between(*pair) for pair in pairs)


def _polls_between(last: int, poll_time: int) -> int:
    """Return how many polls lead from one to the next, as hints have a maximum."""
    return -(-(poll_time - last) // HINT_SECONDS_MAX)


def estimate(known: KnownDurations, elapsed: float, wait: float) -> Eta | None:
    """Return the seconds until the end; None for an answer longer than all known ones."""
    remaining = [each - elapsed for each in known.durations if each > elapsed]
    if not remaining:
        return None
    return Eta(wait + _quantile(remaining, 0.5), wait + _quantile(remaining, 0.9))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
