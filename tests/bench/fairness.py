"""Who is not to be slowed down by whom: an account by a bigger one, a person by a batch.

Two systems of one worker each run side by side on the same machine, of which one has the crowd; a
sample of the one follows a sample of the other. What is measured is what the records tell: from
accept to settlement. The upstream takes its time, so that slots are what is short, not the machine.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from shared import ids
from shared.redis import keys
from shared.stores import generations
from shared.wire.submission import Lane
from tests.bench import aims, figures, rig
from tests.bench.figures import Figure
from tests.bench.rig import Rig
from tests.support.desk import Desk, Ticket
from tests.support.waiting import until

SAMPLES: Final = 2_000
BACKLOG: Final = 50_000
ROUNDS: Final = 20
BIG: Final = 10_000
SMALL: Final = 10
_SLOTS: Final = 16
_AT_ONCE: Final = 200
_PERSONS: Final = 4
_PLENTY: Final = 1_000_000_000
_PATIENCE_SECONDS: Final = 60.0
_QUICK: Final = "Hello [tokens=5 gap=0.01]"
_SLOW: Final = "An item [tokens=2 first=0.5]"


class _Pair(NamedTuple):
    """A system without the crowd, and one with it."""

    alone: Rig
    beside: Rig


async def measure(
    samples: int = SAMPLES, backlog: int = BACKLOG, rounds: int = ROUNDS, big: int = BIG
) -> list[Figure]:
    """Measure both, one after the other."""
    return [*await _accounts(rounds, big), *await _batch(samples, backlog)]


async def _accounts(rounds: int, big: int) -> list[Figure]:
    """Take rounds of ten generations of a small account, alone and beside a big one."""
    alone: list[float] = []
    beside: list[float] = []
    async with _pair() as pair:
        await _fill(pair.beside, "big", big, _QUICK, "interactive")
        for _ in range(rounds):
            for system, taken in ((pair.alone, alone), (pair.beside, beside)):
                tickets = await _submit(system, "small", SMALL, _QUICK, "interactive")
                took = await asyncio.gather(*(_seconds(system, each) for each in tickets))
                taken.extend(took)
        left = await _unfinished(pair.beside, "big", "interactive")
    assert left, "the big account's work was over too early"
    ratio = figures.quantile(beside, 0.99) / figures.quantile(alone, 0.99)
    return [
        Figure(
            f"p99 of {SMALL} beside {big:,} of another account",
            f"{ratio:.2f} times that alone",
            f"{_ms(beside, 0.99)} against {_ms(alone, 0.99)}",
            f"{aims.SMALL_ACCOUNT_P99:g}",
            ratio <= aims.SMALL_ACCOUNT_P99,
        )
    ]


async def _batch(samples: int, backlog: int) -> list[Figure]:
    """Have persons ask one thing after the other, with and without a batch that waits and runs."""
    alone: list[float] = []
    beside: list[float] = []
    async with _pair() as pair:
        await _fill(pair.beside, "mill", backlog, _SLOW, "batch")

        async def person(name: str) -> None:
            for _ in range(samples // _PERSONS):
                for system, taken in ((pair.alone, alone), (pair.beside, beside)):
                    [ticket] = await _submit(system, name, 1, _QUICK, "interactive")
                    taken.append(await _seconds(system, ticket))

        await asyncio.gather(*(person(f"person{number}") for number in range(_PERSONS)))
        left = await _unfinished(pair.beside, "mill", "batch")
    assert left, "the batch was over too early"
    found = []
    for (name, share), most in zip(
        (("p50", 0.5), ("p99", 0.99)), (aims.PERSON_P50, aims.PERSON_P99), strict=True
    ):
        ratio = figures.quantile(beside, share) / figures.quantile(alone, share)
        found.append(
            Figure(
                f"a person's {name} with a batch of {backlog:,}, {len(beside):,} pairs",
                f"{ratio:.2f} times that without",
                f"{_ms(beside, share)} against {_ms(alone, share)}",
                f"{most:g}",
                ratio <= most,
            )
        )
    return found


@asynccontextmanager
async def _pair() -> AsyncIterator[_Pair]:
    async with AsyncExitStack() as stack:
        yield _Pair(
            *[
                await stack.enter_async_context(rig.running(workers=1, concurrency=_SLOTS))
                for _ in range(2)
            ]
        )


def _desk(system: Rig) -> Desk:
    return Desk(system.redis, system.settings.redis, system.account.partition)


async def _submit(system: Rig, account: str, count: int, message: str, lane: Lane) -> list[Ticket]:
    desk = _desk(system)
    return await asyncio.gather(
        *(
            desk.submit(
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
    desk = _desk(system)

    async def ended() -> float | None:
        found = await generations.find(system.redis, desk.root, ticket.account, ticket.id)
        assert found is not None
        if found.finished is None:
            return None
        assert found.stage == "completed", found.stage
        return max(1, found.finished - found.accepted) / 1000

    seconds: float = await until(ended, _PATIENCE_SECONDS, what="a generation")
    return seconds


async def _unfinished(system: Rig, account: str, lane: Lane) -> int:
    where = keys.UNFINISHED(_desk(system).root, account, lane)
    return int(await system.redis.call("ZCARD", where))


def _ms(values: list[float], share: float) -> str:
    return f"{figures.quantile(values, share) * 1000:.0f} ms"


async def report() -> None:
    """Measure and print."""
    figures.say(figures.table("fairness", await measure()))


if __name__ == "__main__":
    figures.say(figures.machine())
    asyncio.run(report())
