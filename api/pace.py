"""When to look again: poll hints and estimates, from how long a model's last answers took.

Owns the policy that contract 2 measures: a client that obeys the hint should learn of the end soon
after it, with few polls. Refuses to guess beyond what was measured, except before there is anything
to measure by.

DESIGN. The durations known make a plan: at which whole seconds of its life an answer is looked at.
It begins with one look, behind the longest. Then, again and again, the look is added that makes all
those answers together known earliest, as long as it is worth a poll and no answer would be polled
more often than the contract allows. So answers that take alike are found by a look or two just
behind them, kinds far apart by a look behind each, and what is spread wide by looks spread as wide.
Durations may be spread so wide that the polls allowed do not suffice for that: those tell little of
an end, and `spread` plans the looks, so that none comes later than half the time waited. Beyond the
longest, and for the few that take far longer than all others, the looks go on, ever further apart.
A hint is the way to the next look.

An answer that has waited for its turn has had polls by then: its plan makes do with the rest.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, NamedTuple, Self

from api import spread
from api.fresh import Fresh
from shared.catalogue import Shelf
from shared.clock import Clock
from shared.redis.client import Connection
from shared.stores import pace
from shared.wire.submission import AUTO

HINT_SECONDS_MAX: Final = 30
HINT_SECONDS_UNKNOWN: Final = 2
_TRUSTED_SECONDS: Final = 4.0
_UNKNOWN_SECONDS: Final = 5.0
# Without a measured answer, what the catalogue says may be wrong by these factors.
DOUBTS: Final = (0.15, 0.3, 0.6, 1.0, 1.8, 3.0, 6.0)
_COMMON_SHARE: Final = 0.95
# Fewer measured answers than this may not have shown how much they differ; of one alone the next
# may well take twice as long, or half as long.
_ENOUGH: Final = 16
_DOUBT_OF_ONE: Final = 0.8
# A plan is made from this many durations at most: more make it no better.
_SAMPLES_MAX: Final = 64
# A look that makes the average answer known this much earlier is worth its poll.
_WORTH_SECONDS: Final = 0.05
# What settling takes, and by how much a poll may come before its whole second.
_SETTLING_SECONDS: Final = 0.02
_EARLY_SECONDS: Final = 0.1
_BEYOND_SHARE: Final = 0.05
# Where durations tell the end, half of all answers are found within so many seconds of it, and all
# but a few within so many, or this share of what they took.
_LATE_TYPICAL_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 2.0
_LATE_SHARE: Final = 0.1
_SHORTEST_SECONDS: Final = 0.001


class Eta(NamedTuple):
    """Seconds until the end, as half and nine tenths of the answers like it had it."""

    p50: float
    p90: float


class Before(NamedTuple):
    """What a client has behind it when an answer begins: seconds waited, and polls at most.

    The seconds are those of the power of two below, so that few plans serve all who wait.
    """

    seconds: int = 0
    polls: int = 0

    @classmethod
    def of(cls, waited: float, polls: int) -> Self:
        """Return it for a wait of so many seconds; one that is over at once counts for nothing."""
        return cls(2 ** int(math.log2(waited)), polls) if waited >= 1 and polls else cls()


NOTHING_BEFORE: Final = Before()


class Known:
    """How long answers took, sorted, and when to look at one like them, from its start."""

    def __init__(self, durations: tuple[float, ...]) -> None:
        self.durations = durations
        self._plans: dict[Before, tuple[int, ...]] = {}

    @cached_property
    def typical_seconds(self) -> float:
        """How long half of them took, at most."""
        return max(_SHORTEST_SECONDS, _quantile(self.durations, 0.5))

    @cached_property
    def margin_seconds(self) -> float:
        """How much less than the typical answer those take of which nine in ten take longer."""
        return self.typical_seconds - _quantile(self.durations, 0.1)

    def looks(self, before: Before = NOTHING_BEFORE) -> tuple[int, ...]:
        """Return the plan: at which whole seconds from its start an answer is looked at."""
        if before not in self._plans:
            self._plans[before] = _plan(self.durations, before)
        return self._plans[before]

    @cached_property
    def first_end(self) -> float:
        """How long the answers take, at most, that the first look finds ended."""
        found = bisect.bisect_right(self.durations, self.looks()[0] - _SETTLING_SECONDS)
        return self.durations[max(0, found - 1)] + _SETTLING_SECONDS

    @classmethod
    def of(cls, durations: Iterable[float]) -> Self:
        """Know answers like these, of which there is at least one."""
        return cls(tuple(sorted(durations)))


class Paces:
    """The measured durations of every model lately asked about, as this process knows them."""

    def __init__(self, redis: Connection, shelf: Shelf, clock: Clock) -> None:
        self._redis = redis
        self._shelf = shelf
        self._known = Fresh(self._look, clock, trusted_seconds=_TRUSTED_SECONDS)

    async def durations(self, root: str, model: str) -> Known:
        """Return the model's durations; the catalogue's word, in doubt, while none is measured."""
        return await self._known.get((root, model))

    async def _look(self, name: tuple[str, str]) -> Known:
        root, model = name
        measured = await pace.durations_ms(self._redis, root, model)
        word = self._prior_seconds(model)
        durations = [each / 1000 for each in measured]
        return Known.of(widened(durations) if durations else [word * doubt for doubt in DOUBTS])

    def _prior_seconds(self, name: str) -> float:
        """Return what the catalogue says; who names no model is answered by the first that can."""
        catalogue = self._shelf.catalogue
        first = catalogue.models[0] if name == AUTO and catalogue.models else None
        model = first or catalogue.by_identifier.get(name)
        return _UNKNOWN_SECONDS if model is None else model.estimated_duration_seconds


def widened(measured: list[float]) -> list[float]:
    """Return measured durations, and where they are few also what others like them may take."""
    if len(measured) >= _ENOUGH:
        return measured
    middle, doubt = _quantile(sorted(measured), 0.5), 1 + _DOUBT_OF_ONE / math.sqrt(len(measured))
    return [*measured, *(middle * doubt**power for power in (-2, -1, 1, 2))]


def hint_of_waiting(known: Known, wait: float) -> int:
    """Return in how many whole seconds, 1 to 30, to look at an answer that begins after a wait."""
    return max(1, min(HINT_SECONDS_MAX, math.ceil(wait + known.first_end)))


def hint(known: Known, elapsed: float, before: Before = NOTHING_BEFORE) -> int:
    """Return in how many whole seconds, 1 to 30, to look again.

    `elapsed` is the time since the answer was begun, in seconds.
    """
    looks = known.looks(before)
    following = bisect.bisect_right(looks, elapsed + _EARLY_SECONDS)
    if following == len(looks):
        return HINT_SECONDS_MAX
    return min(HINT_SECONDS_MAX, math.ceil(looks[following] - elapsed - _EARLY_SECONDS))


def _plan(durations: tuple[float, ...], before: Before) -> tuple[int, ...]:
    """Return the seconds at which to look, the last of them beyond everything measured."""
    # Looks for the few that took far longer than all others would be missed by those.
    common = durations[: math.ceil(_COMMON_SHARE * len(durations))]
    stride = 1 + (len(common) - 1) // _SAMPLES_MAX
    sample = common[::-stride][::-1]
    looks = _worthwhile_looks(sample, before)
    plan = (*looks, *_looks_beyond(looks, before, durations[-1]))
    if _tells_the_end(sample, plan):
        return plan
    looks = spread.looks(sample, _SETTLING_SECONDS, _limits(before)) or looks
    other = (*looks, *_looks_beyond(looks, before, durations[-1]))
    return min(plan, other, key=lambda each: _gaps_and_lateness(durations, each))


def _worthwhile_looks(sample: tuple[float, ...], before: Before) -> list[int]:
    """Return one look behind the longest, and before it all that are worth a poll and allowed."""
    behind = [math.ceil(duration + _SETTLING_SECONDS) for duration in sample]
    looks = [behind[-1]]
    refused: set[int] = set()
    while (look := _best_look(behind, looks, refused)) is not None:
        more = sorted((*looks, look))
        if _is_allowed(sample, behind, more, before):
            looks = more
        else:
            refused.add(look)
    return looks


def _limits(before: Before) -> spread.Limits:
    def allowed(seconds: float) -> float:
        return _polls_max(before.seconds + seconds)

    return spread.Limits(before.polls, allowed, HINT_SECONDS_MAX)


def _lateness(sample: tuple[float, ...], looks: tuple[int, ...]) -> list[float]:
    """Return how long after its end each answer is found; the longest hint, beyond all looks."""
    found = (bisect.bisect_left(looks, each + _SETTLING_SECONDS) for each in sample)
    return [
        looks[index] - each if index < len(looks) else HINT_SECONDS_MAX
        for index, each in zip(found, sample, strict=True)
    ]


def _tells_the_end(sample: tuple[float, ...], looks: tuple[int, ...]) -> bool:
    """Tell whether answers like those known are found as soon as where durations tell the end."""
    late = _lateness(sample, looks)
    pairs = zip(late, sample, strict=True)
    far = sum(each > max(_LATE_SECONDS, _LATE_SHARE * seconds) for each, seconds in pairs)
    is_soon = _quantile(sorted(late), 0.5) <= _LATE_TYPICAL_SECONDS
    return is_soon and far <= (1 - _COMMON_SHARE) * len(sample)


def _gaps_and_lateness(durations: tuple[float, ...], looks: tuple[int, ...]) -> tuple[float, float]:
    """Return by what plans are compared: where an end is found late, then how late all are."""
    gaps = spread.unguarded(looks, max(durations[0], _SHORTEST_SECONDS))
    return round(gaps, 1), sum(_lateness(durations, looks))


def _best_look(behind: list[int], looks: list[int], refused: set[int]) -> int | None:
    """Return the look that makes all together known earliest; None when none is worth a poll."""
    most, best = _WORTH_SECONDS * len(behind), None
    first = 0
    for look in looks:
        last = bisect.bisect_right(behind, look)
        for index in range(first, last):
            saved = (index + 1 - first) * (look - behind[index])
            if saved >= most and behind[index] not in refused:
                most, best = saved, behind[index]
        first = last
    return best


def _is_allowed(
    sample: tuple[float, ...], behind: list[int], looks: list[int], before: Before
) -> bool:
    """Tell whether answers like these, and one a little longer, keep to the polls allowed."""
    polls, last = before.polls, 0
    for look in looks:
        polls += _polls_between(last, look)
        if polls > _polls_max(before.seconds + sample[bisect.bisect_right(behind, last)]):
            return False
        last = look
    return polls + 1 <= _polls_max(before.seconds + sample[-1])


def _polls_max(seconds: float) -> float:
    """Return the contract's bound; what lasts very long needs more, since hints end at the most."""
    return max(4 + math.log2(max(1.0, seconds)), 3 + seconds / HINT_SECONDS_MAX)


def _looks_beyond(looks: list[int], before: Before, longest: float) -> Iterator[int]:
    """Yield looks for what takes longer than nearly all: close at first, as far as polls are left.

    After them, hints of the most seconds lead as far as the longest that is known.
    """
    look, polls = looks[-1], _polls_at(looks, before)
    step = max(1, round(_BEYOND_SHARE * look))
    while step < HINT_SECONDS_MAX:
        if _is_enough_left(polls + 1, before.seconds, look + step, longest):
            look += step
            polls += 1
            yield look
            step *= 2
        else:
            step += 1


def _is_enough_left(polls: int, waited: int, look: int, longest: float) -> bool:
    """Tell whether what lasts beyond any look from here on keeps to the polls allowed."""
    later = range(look, max(look, math.ceil(longest)) + 1, HINT_SECONDS_MAX)
    return all(polls + number + 1 <= _polls_max(waited + each) for number, each in enumerate(later))


def _polls_at(looks: list[int], before: Before) -> int:
    """Return how many polls were made with the last look."""
    pairs = zip((0, *looks), looks, strict=False)
    return before.polls + sum(_polls_between(*pair) for pair in pairs)


def _polls_between(last: int, look: int) -> int:
    """Return how many polls lead from one look to the next, as no hint is longer than the most."""
    return -(-(look - last) // HINT_SECONDS_MAX)


def eta(known: Known, elapsed: float, wait: float) -> Eta | None:
    """Return what is left until the end, in seconds; None for what takes longer than any known."""
    remaining = [each - elapsed for each in known.durations if each > elapsed]
    if not remaining:
        return None
    return Eta(wait + _quantile(remaining, 0.5), wait + _quantile(remaining, 0.9))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
