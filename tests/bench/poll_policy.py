"""The poll policy alone: `api.polling.eta.hint` and clients that obey it, without a socket.

Owns the same bounds as `polling`, and worlds of more kinds than a real run has time for. Everything
takes as long as the world says, nothing costs time by itself, and an hour passes in a blink. The
chance in it is seeded: the same policy gives the same figures.
"""

import asyncio
import bisect
import math
import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from api.polling import eta
from api.polling.eta import KnownDurations
from tests.bench import bounds, figures
from tests.bench.figures import Figure

CLIENTS: Final = 400
_HISTORY: Final = 96
_PICKUP_SECONDS: Final = 0.01
_SEED: Final = 20_261_121

Hint = Callable[[KnownDurations, float], int]
Draw = Callable[[random.Random], float]


class Followed(NamedTuple):
    """One answer as its client saw it: how late it learned of the end, after how many polls."""

    duration: float
    lateness: float
    polls: int


class World(NamedTuple):
    """Answers of one kind, and what is known of such answers beforehand, in seconds."""

    name: str
    duration: Draw
    known: Draw | None
    prior: float = 5.0


def polls_max(duration: float) -> float:
    """Return how many polls the contract allows for an answer of so many seconds."""
    return bounds.POLLS_BASE + math.log2(max(1.0, duration))


def lateness_max(duration: float) -> float:
    """Return the lateness that 95 of 100 answers must not exceed, by the contract."""
    return max(bounds.LATE_P95_SECONDS, bounds.LATE_P95_SHARE * duration)


def figure(name: str, followed: list[Followed]) -> Figure:
    """Hold the clients of a world against the contract."""
    late = [one.lateness for one in followed]
    middle, p95 = figures.quantile(late, 0.5), figures.quantile(late, 0.95)
    late_share = sum(one.lateness > lateness_max(one.duration) for one in followed) / len(followed)
    over = max(one.polls - polls_max(one.duration) for one in followed)
    polls = sorted(one.polls for one in followed)
    typical = figures.median(one.duration for one in followed)
    return Figure(
        name,
        f"late {middle:4.2f} s, p95 {p95:5.2f} s; polls {polls[len(polls) // 2]}, most {polls[-1]}",
        f"{late_share:4.0%} too late, {max(0.0, over):.1f} polls too many",
        f"{bounds.LATE_P50_SECONDS:g} s, {lateness_max(typical):.0f} s; {polls_max(typical):.1f}",
        middle <= bounds.LATE_P50_SECONDS and late_share <= bounds.LATE_SHARE and over <= 0,
    )


def is_predictable(durations: Sequence[float]) -> bool:
    """Tell whether any plan of looks, made in hindsight, holds the contract for such answers.

    Where none does, what was measured does not tell when the next answer ends.
    """
    half = _found_in_time(durations, lambda _: bounds.LATE_P50_SECONDS)
    most = _found_in_time(durations, lateness_max)
    count = len(durations)
    return half >= count / 2 and most >= (1 - bounds.LATE_SHARE) * count


def _found_in_time(durations: Sequence[float], bound: Callable[[float], float]) -> int:
    """Return how many answers are found in time at most, by any plan within the polls allowed.

    The best plan looks just behind answers only: an earlier look finds no fewer of them in time.
    """
    ends = sorted(durations)
    # By the look and the polls made with it: how many were found in time, and how many are over.
    best: dict[tuple[float, int], tuple[int, int]] = {(0.0, 0): (0, 0)}
    for poll_at in sorted({float(math.ceil(end)) for end in ends}):
        over = bisect.bisect_right(ends, poll_at)
        for (last, polls), (found, before) in list(best.items()):
            made = polls + math.ceil((poll_at - last) / eta.HINT_SECONDS_MAX)
            if made <= polls_max(ends[before]):
                more = sum(poll_at - end <= bound(end) for end in ends[before:over])
                known = best.get((poll_at, made), (0, over))
                best[poll_at, made] = max(known, (found + more, over))
    return max(found for found, _ in best.values())


def jittered(seconds: float, share: float = 0.02) -> Draw:
    """Return answers of about so many seconds, evenly spread by a share of it to both sides."""
    return lambda chance: seconds * chance.uniform(1 - share, 1 + share)


def skewed(seconds: float, sigma: float) -> Draw:
    """Return answers of so many seconds in the middle, some much longer, as real ones are."""
    return lambda chance: seconds * chance.lognormvariate(0.0, sigma)


def one_of(*draws: Draw) -> Draw:
    """Return answers of several kinds, each as often."""
    return lambda chance: chance.choice(draws)(chance)


SECONDS: Final = (1.0, 5.0, 30.0, 120.0)
_MIXED: Final = one_of(*(jittered(seconds) for seconds in SECONDS))

WORLDS: Final = (
    *(World(f"known, {s:g} s", jittered(s), jittered(s)) for s in SECONDS),
    *(World(f"all four known, {s:g} s", jittered(s), _MIXED) for s in SECONDS),
    *(World(f"unknown, {s:g} s", jittered(s), None) for s in SECONDS),
    *(World(f"known, {s:g} s, skewed", skewed(s, 0.35), skewed(s, 0.35)) for s in SECONDS),
    *(World(f"known, {s:g} s, +-10 %", jittered(s, 0.1), jittered(s, 0.1)) for s in SECONDS),
    World("known as 5 s, is 30 s", jittered(30.0), jittered(5.0)),
    World("known as 30 s, is 5 s", jittered(5.0), jittered(30.0)),
)


def follow(duration: float, known: KnownDurations, hint: Hint) -> Followed:
    """Follow one answer by the hints: the receipt's first, then each status's."""
    ends = duration + _PICKUP_SECONDS
    now, polls = float(hint(known, 0.0)), 1
    while now < ends:
        now += hint(known, now - _PICKUP_SECONDS)
        polls += 1
    return Followed(duration, now - ends, polls)


def _history(world: World, chance: random.Random) -> list[float]:
    if world.known is None:
        return [world.prior * factor for factor in eta.PRIOR_FACTORS]
    return [world.known(chance) for _ in range(_HISTORY)]


def simulate(world: World, hint: Hint, clients: int = CLIENTS) -> list[Followed]:
    """Let clients loose in a world, each with a history of its own."""
    chance = random.Random(_SEED)
    followed = []
    for _ in range(clients):
        known = KnownDurations.of(_history(world, chance))
        followed.append(follow(world.duration(chance), known, hint))
    return followed


def measure(hint: Hint = eta.hint, clients: int = CLIENTS) -> list[Figure]:
    """Try a policy in every world."""
    return [figure(world.name, simulate(world, hint, clients)) for world in WORLDS]


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"policy ({CLIENTS} simulated clients a line)", measure()))


if __name__ == "__main__":
    asyncio.run(report())
