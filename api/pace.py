"""When to look again: poll hints and estimates, from how long a model's last answers took.

Owns the policy that contract 2 measures: a client that obeys the hint should learn of the end soon
after it, with few polls. Refuses to guess beyond what was measured, except before there is anything
to measure by.

DESIGN. The durations known make a plan: at which whole seconds of its life an answer is looked at.
It begins with one look, behind the longest. Then, again and again, the look is added that makes all
those answers together known earliest, as long as it is worth a poll and no answer would be polled
more often than the contract allows. So answers that take alike are found by a look or two just
behind them, kinds far apart by a look behind each, and what is spread wide by looks spread as wide.
Beyond the longest the looks go on, ever further apart. A hint is the way to the next look.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self

from api.fresh import Fresh
from shared.catalogue import Shelf
from shared.clock import Clock
from shared.redis.client import Connection
from shared.stores import pace
from shared.stores.fleet import Fleet
from shared.wire.submission import AUTO

HINT_SECONDS_MAX: Final = 30
HINT_SECONDS_UNKNOWN: Final = 2
_TRUSTED_SECONDS: Final = 4.0
_UNKNOWN_SECONDS: Final = 5.0
# Without a measured answer, what the catalogue says may be wrong by these factors.
DOUBTS: Final = (0.15, 0.3, 0.6, 1.0, 1.8, 3.0, 6.0)
# A plan is made from this many durations at most: more make it no better.
_SAMPLES_MAX: Final = 64
# A look that makes the average answer known this much earlier is worth its poll.
_WORTH_SECONDS: Final = 0.05
# What settling takes, and by how much a poll may come before its whole second.
_SETTLING_SECONDS: Final = 0.02
_EARLY_SECONDS: Final = 0.1
_BEYOND_SHARE: Final = 0.05
_SHORTEST_SECONDS: Final = 0.001


class Eta(NamedTuple):
    """Seconds until the end, as half and nine tenths of the answers like it had it."""

    p50: float
    p90: float


class Known(NamedTuple):
    """How long answers took, sorted, and when to look at one like them, from its start."""

    durations: tuple[float, ...]
    looks: tuple[int, ...]

    @property
    def typical_seconds(self) -> float:
        """How long half of them took, at most."""
        return max(_SHORTEST_SECONDS, _quantile(self.durations, 0.5))

    @classmethod
    def of(cls, durations: Iterable[float]) -> Self:
        """Make the plan for answers like these, of which there is at least one."""
        ordered = tuple(sorted(durations))
        return cls(ordered, _plan(ordered))


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
        durations = [each / 1000 for each in measured] or [word * doubt for doubt in DOUBTS]
        return Known.of(durations)

    def _prior_seconds(self, name: str) -> float:
        """Return what the catalogue says; who names no model is answered by the first that can."""
        catalogue = self._shelf.catalogue
        first = catalogue.models[0] if name == AUTO and catalogue.models else None
        model = first or catalogue.by_identifier.get(name)
        return _UNKNOWN_SECONDS if model is None else model.estimated_duration_seconds


def hint(known: Known, elapsed: float, wait: float) -> int:
    """Return in how many whole seconds, 1 to 30, to look again.

    `elapsed` is the time since the answer was begun, `wait` the time until it will be, both in
    seconds.
    """
    following = bisect.bisect_right(known.looks, elapsed + _EARLY_SECONDS)
    if following == len(known.looks):
        return HINT_SECONDS_MAX
    seconds = wait + known.looks[following] - elapsed
    return min(HINT_SECONDS_MAX, math.ceil(seconds - _EARLY_SECONDS))


def _plan(durations: tuple[float, ...]) -> tuple[int, ...]:
    """Return the seconds at which to look, the last of them beyond everything measured."""
    stride = 1 + (len(durations) - 1) // _SAMPLES_MAX
    sample = durations[::-stride][::-1]
    behind = [math.ceil(duration + _SETTLING_SECONDS) for duration in sample]
    looks = [behind[-1]]
    refused: set[int] = set()
    while (look := _best_look(behind, looks, refused)) is not None:
        more = sorted((*looks, look))
        if _is_allowed(sample, behind, more):
            looks = more
        else:
            refused.add(look)
    return (*looks, *_looks_beyond(looks))


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


def _is_allowed(sample: tuple[float, ...], behind: list[int], looks: list[int]) -> bool:
    """Tell whether answers like these, and one a little longer, keep to the polls allowed."""
    polls = last = 0
    for look in looks:
        polls += _polls_between(last, look)
        if polls > _polls_max(sample[bisect.bisect_right(behind, last)]):
            return False
        last = look
    return polls + 1 <= _polls_max(sample[-1])


def _polls_max(seconds: float) -> float:
    """Return the contract's bound; what lasts very long needs more, since hints end at the most."""
    return max(4 + math.log2(max(1.0, seconds)), 3 + seconds / HINT_SECONDS_MAX)


def _looks_beyond(looks: list[int]) -> Iterator[int]:
    """Yield looks for what takes longer than ever: close at first, as far as polls are left."""
    look = looks[-1]
    polls = sum(_polls_between(*pair) for pair in zip((0, *looks), looks, strict=False))
    step = max(1, round(_BEYOND_SHARE * look))
    # An answer that lasts beyond the n-th poll may be polled again once it is 2^(n - 3) old.
    while (step := max(step, 2 ** max(0, polls - 2) - look)) < HINT_SECONDS_MAX:
        look += step
        polls += 1
        step *= 2
        yield look


def _polls_between(last: int, look: int) -> int:
    """Return how many polls lead from one look to the next, as no hint is longer than the most."""
    return -(-(look - last) // HINT_SECONDS_MAX)


def eta(known: Known, elapsed: float, wait: float) -> Eta:
    """Return what is left until the end, in seconds."""
    remaining = [each - elapsed for each in known.durations if each > elapsed] or [1.0]
    return Eta(wait + _quantile(remaining, 0.5), wait + _quantile(remaining, 0.9))


class Line(NamedTuple):
    """A place in an account's line: how many of its own come first; None for who no longer waits.

    `crowd` counts those among whom the fleet's room is shared, in accounts of its own weight; it
    may run `most` at once (0: unknown). `behind` turns of its session come first, one by one.
    """

    ahead: int | None
    crowd: int = 0
    most: int = 0
    behind: int = 0


def wait_seconds(line: Line, known: Known, fleet: Fleet) -> float:
    """Return the wait for a turn, by the account's own line and its share of the fleet's room."""
    if line.ahead is None:
        return 0.0
    by_share = line.ahead * max(1, line.crowd) // max(1, fleet.slots)
    by_most = line.ahead // line.most if line.most else 0
    return max(by_share, by_most, line.behind) * _quantile(known.durations, 0.5)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
