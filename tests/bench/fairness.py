"""Who must not slow down whom: a big account a small one, a batch a person.

Two systems of one worker each run side by side, of which one is crowded; samples alternate between
them. Measured is the time from accept to settlement, by the records. The upstream takes its time,
so that slots are the limit, not the machine. Each run gives ratios, and their median is judged.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from shared import ids
from shared.redis import keys
from shared.stores import generations
from shared.wire.submission import Lane
from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support.redis_functions import RedisFunctions, Ticket
from tests.support.waiting import until

SAMPLES: Final = 2_000
BACKLOG: Final = 50_000
ROUNDS: Final = 20
RUNS: Final = 3
BIG: Final = 10_000
SMALL: Final = 10
_SLOTS: Final = 16
_AT_ONCE: Final = 200
_PERSON_COUNT: Final = 4
_PLENTY: Final = 1_000_000_000
_GIVE_UP_SECONDS: Final = 60.0
_QUICK: Final = "Hello [tokens=5 gap=0.01]"
_SLOW: Final = "An item [tokens=2 first=0.5]"


class _Pair(NamedTuple):
    """A system without other load, and a crowded one."""

    alone: Rig
    crowded: Rig


class Turn(NamedTuple):
    """The samples of one run, in seconds: alone, and crowded."""

    alone: list[float]
    crowded: list[float]

    def ratio(self, share: float) -> float:
        """Return how many times as long it takes when crowded."""
        return figures.quantile(self.crowded, share) / figures.quantile(self.alone, share)


async def measure(
    samples: int = SAMPLES,
    backlog: int = BACKLOG,
    rounds: int = ROUNDS,
    big: int = BIG,
    runs: int = RUNS,
) -> list[Figure]:
    """Measure both, one after the other; the samples and rounds are those of all runs."""
    return [
        *await _accounts(max(1, rounds // runs), big, runs),
        *await _batch(max(_PERSON_COUNT, samples // runs), backlog, runs),
    ]


async def _accounts(rounds: int, big: int, runs: int) -> list[Figure]:
    """Take rounds of ten generations of a small account, alone and beside a big one."""
    async with _pair() as pair:

        async def take() -> Turn:
            left = await _unfinished(pair.crowded, "big", "interactive")
            await _fill(pair.crowded, "big", big - left, _QUICK, "interactive")
            turn = Turn([], [])
            for _ in range(rounds):
                for system, taken in zip(pair, turn, strict=True):
                    tickets = await _submit(system, "small", SMALL, _QUICK, "interactive")
                    took = await asyncio.gather(*(_seconds(system, each) for each in tickets))
                    taken.extend(took)
            assert await _unfinished(pair.crowded, "big", "interactive"), (
                "the big account has no work left"
            )
            return turn

        judged = [(0.99, bounds.SMALL_ACCOUNT_P99)]
        turns = await figures.rounds(runs, take, lambda turn: verdicts(turn, judged))
    name = f"p99 of {SMALL} beside {big:,} of another account"
    return [figure(name, turns, share, bound) for share, bound in judged]


async def _batch(samples: int, backlog: int, runs: int) -> list[Figure]:
    """Let persons send messages in turn, with and without a batch that waits and runs."""
    async with _pair() as pair:
        await _fill(pair.crowded, "mill", backlog, _SLOW, "batch")

        async def person(name: str, turn: Turn) -> None:
            for _ in range(samples // _PERSON_COUNT):
                for system, taken in zip(pair, turn, strict=True):
                    [ticket] = await _submit(system, name, 1, _QUICK, "interactive")
                    taken.append(await _seconds(system, ticket))

        async def take() -> Turn:
            turn = Turn([], [])
            await asyncio.gather(*(person(f"person{each}", turn) for each in range(_PERSON_COUNT)))
            assert await _unfinished(pair.crowded, "mill", "batch"), "the batch is over"
            return turn

        judged = [(0.5, bounds.PERSON_P50), (0.99, bounds.PERSON_P99)]
        turns = await figures.rounds(runs, take, lambda turn: verdicts(turn, judged))
    return [
        figure(f"a person's p{share * 100:.0f} with a batch of {backlog:,}", turns, share, bound)
        for share, bound in judged
    ]


def verdicts(turn: Turn, judged: Iterable[tuple[float, float]]) -> list[bool]:
    """Return the verdicts of one run; `judged` are quantiles with their bounds."""
    return [turn.ratio(share) <= bound for share, bound in judged]


def figure(name: str, turns: list[Turn], share: float, bound: float) -> Figure:
    """Judge by the median of the runs' ratios."""
    ratio = figures.median(turn.ratio(share) for turn in turns)
    crowded, alone = [
        figures.median(figures.quantile(taken, share) for taken in side) * 1000
        for side in ([turn.crowded for turn in turns], [turn.alone for turn in turns])
    ]
    pairs = sum(len(turn.crowded) for turn in turns)
    return Figure(
        f"{name}, {pairs:,} pairs",
        f"{ratio:.2f} times that without, the median of {len(turns)}",
        f"{crowded:.0f} ms against {alone:.0f} ms",
        f"{bound:g}",
        ratio <= bound,
    )


@asynccontextmanager
async def _pair() -> AsyncIterator[_Pair]:
    async with AsyncExitStack() as stack:
        yield _Pair(
            *[
                await stack.enter_async_context(system_rig.running(workers=1, concurrency=_SLOTS))
                for _ in range(2)
            ]
        )


def _queue(system: Rig) -> RedisFunctions:
    return RedisFunctions(system.redis, system.settings.redis, system.account.partition)


async def _submit(system: Rig, account: str, count: int, message: str, lane: Lane) -> list[Ticket]:
    queue = _queue(system)
    return await asyncio.gather(
        *(
            queue.submit(
                account,
                content=message,
                lane=lane,
                model="auto",
                deadline_ms=86_400_000,
                per_minute=_PLENTY,
                unfinished_max=_PLENTY,
                running_max=_PLENTY,
                total_max=_PLENTY,
                generation=ids.new_id(),
            )
            for _ in range(count)
        )
    )


async def _fill(system: Rig, account: str, count: int, message: str, lane: Lane) -> None:
    for first in range(0, count, _AT_ONCE):
        await _submit(system, account, min(_AT_ONCE, count - first), message, lane)


async def _seconds(system: Rig, ticket: Ticket) -> float:
    """Wait for an end and return how long it took, by Redis' clock."""
    queue = _queue(system)

    async def ended() -> float | None:
        found = await generations.find(system.redis, queue.root, ticket.account, ticket.id)
        assert found is not None
        if found.finished is None:
            return None
        assert found.stage == "completed", found.stage
        took = figures.sample((found.finished - found.accepted) / 1000, ticket.id)
        return max(0.001, took)

    seconds: float = await until(ended, _GIVE_UP_SECONDS, what="a generation")
    return seconds


async def _unfinished(system: Rig, account: str, lane: Lane) -> int:
    where = keys.UNFINISHED(_queue(system).root, account, lane)
    return int(await system.redis.call("ZCARD", where))


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("fairness", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
