"""The poll hints alone: `api.polling.eta.hint` and simulated clients, without a socket.

Has the same bounds as `polling`, and more kinds of answers than a real run has time for. Time is
simulated, so an hour takes no time. Random numbers are seeded: the same hints give the same
figures.
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
    """One answer: how late its client learned of the end, after how many polls."""

    duration: float
    lateness: float
    polls: int


class World(NamedTuple):
    """Answers of one kind, and the durations known beforehand, in seconds."""

    name: str
    duration: Draw
    known: Draw | None
    prior: float = 5.0


def polls_max(duration: float) -> float:
    """Return how many polls the contract allows for an answer of this duration."""
    return bounds.POLLS_BASE + math.log2(max(1.0, duration))


def lateness_max(duration: float) -> float:
    """Return the lateness that the contract allows for 95 of 100 answers."""
    return max(bounds.LATE_P95_SECONDS, bounds.LATE_P95_SHARE * duration)


def figure(name: str, followed: list[Followed]) -> Figure:
    """Compare the clients of a world with the contract."""
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
    """Return whether any plan of polls, made in hindsight, keeps the contract for such answers.

    If none does, the measured durations do not predict the end of the next answer.
    """
    half = _found_in_time(durations, lambda _: bounds.LATE_P50_SECONDS)
    most = _found_in_time(durations, lateness_max)
    count = len(durations)
    return half >= count / 2 and most >= (1 - bounds.LATE_SHARE) * count


def _found_in_time(durations: Sequence[float], bound: Callable[[float], float]) -> int:
    """Return how many answers the best plan within the allowed polls finds in time.

    The best plan polls just after the ends of answers only: an earlier poll finds no more of them.
    """
    ends = sorted(durations)
    # By the time and number of the last poll: answers found in time, and answers that are over.
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
    """Return durations spread evenly around this one, by a share of it to both sides."""
    return lambda chance: seconds * chance.uniform(1 - share, 1 + share)


def skewed(seconds: float, sigma: float) -> Draw:
    """Return durations with this median, some much longer, as real ones are."""
    return lambda chance: seconds * chance.lognormvariate(0.0, sigma)


def one_of(*draws: Draw) -> Draw:
    """Return durations of several kinds, equally often."""
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
    """Simulate clients in a world, each with a history of its own."""
    chance = random.Random(_SEED)
    followed = []
    for _ in range(clients):
        known = KnownDurations.of(_history(world, chance))
        followed.append(follow(world.duration(chance), known, hint))
    return followed


def measure(hint: Hint = eta.hint, clients: int = CLIENTS) -> list[Figure]:
    """Simulate every world."""
    return [figure(world.name, simulate(world, hint, clients)) for world in WORLDS]


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"policy ({CLIENTS} simulated clients a line)", measure()))


if __name__ == "__main__":
    asyncio.run(report())
