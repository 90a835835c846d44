"""Whether a long queue is slower: accept and claim at a thousand and at a million.

Two servers side by side, of which one has the long backlog; rounds of calls alternate between them,
and claimed generations are settled in between, so that the backlog stays. Calls are made one after
the other: compared is the median time of a call, with its round trip. The median of the runs'
ratios is judged.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from shared.clock import SystemClock
from shared.redis import library
from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.bench import bounds, figures
from tests.bench.figures import Figure
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server

LONG: Final = 1_000_000
SHORT: Final = 1_000
ROUNDS: Final = 40
RUNS: Final = 3
_CALLS: Final = 100
_ACCOUNTS: Final = 100
_AT_ONCE: Final = 500
_PLENTY: Final = 1_000_000_000
_GIVE_UP_SECONDS: Final = 60.0


# The seconds that calls took: by what was called, at the short backlog and at the long one.
Run = dict[str, tuple[list[float], list[float]]]


async def measure(
    long: int = LONG, short: int = SHORT, rounds: int = ROUNDS, runs: int = RUNS
) -> list[Figure]:
    """Fill both, then measure in turns; the rounds are those of all runs."""
    async with AsyncExitStack() as stack:
        few = await stack.enter_async_context(_running_queue())
        many = await stack.enter_async_context(_running_queue())
        await _fill(few, short)
        before = await _used_bytes(many)
        await _fill(many, long)
        each = (await _used_bytes(many) - before) / long

        async def take() -> Run:
            run: Run = {name: ([], []) for name in _NAMES}
            for _ in range(max(1, rounds // runs)):
                for side, queue in enumerate((few, many)):
                    await _round(queue, {name: taken[side] for name, taken in run.items()})
            return run

        turns = await figures.rounds(runs, take, verdicts)
    found = [figure(name, turns, short, long) for name in _NAMES]
    return [*found, Figure(f"Redis' bytes a queued generation, of {long:,}", f"{each:,.0f}")]


_NAMES: Final = ("accept", "claim")
Answer = TypeVar("Answer")


async def _round(queue: RedisFunctions, taken: dict[str, list[float]]) -> None:
    for number in range(_CALLS):
        call = partial(_accept, queue, f"account{number % _ACCOUNTS}")
        await _timed(call, taken["accept"])
    for _ in range(_CALLS):
        [claimed] = await _timed(queue.claim, taken["claim"])
        assert await queue.settle(claimed, stage="failed") is not None


async def _timed(call: Callable[[], Awaitable[Answer]], taken: list[float]) -> Answer:
    clock = SystemClock()
    began = clock.monotonic()
    result = await call()
    taken.append(figures.sample(clock.monotonic() - began, "a call"))
    return result


async def _accept(queue: RedisFunctions, account: str) -> None:
    await queue.submit(
        account,
        content="What is a job queue, and what is it good for?",
        deadline_ms=86_400_000,
        per_minute=_PLENTY,
        unfinished_max=_PLENTY,
        running_max=_PLENTY,
        total_max=_PLENTY,
    )


async def _fill(queue: RedisFunctions, count: int) -> None:
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(count, first + _AT_ONCE))
        await asyncio.gather(
            *(_accept(queue, f"account{number % _ACCOUNTS}") for number in numbers)
        )


async def _used_bytes(queue: RedisFunctions) -> int:
    memory: bytes = await queue.redis.call("INFO", "memory")
    return int(memory.split(b"used_memory:")[1].split(b"\r")[0])


def _ratio(run: Run, name: str) -> float:
    few, many = run[name]
    return figures.median(many) / figures.median(few)


def verdicts(run: Run) -> list[bool]:
    """Return the verdict of one run on each call."""
    return [_ratio(run, name) <= bounds.BACKLOG_TIMES for name in run]


def figure(name: str, turns: list[Run], short: int, long: int) -> Figure:
    """Judge by the median of the runs' ratios."""
    ratio = figures.median(_ratio(run, name) for run in turns)
    few, many = [
        figures.median(figures.median(run[name][side]) for run in turns) * 1e6 for side in (0, 1)
    ]
    return Figure(
        f"{name} at a backlog of {long:,}",
        f"{ratio:.2f} times that at {short:,}, the median of {len(turns)}",
        f"{many:.0f} us against {few:.0f}",
        f"{bounds.BACKLOG_TIMES:g}",
        ratio <= bounds.BACKLOG_TIMES,
    )


@asynccontextmanager
async def _running_queue() -> AsyncIterator[RedisFunctions]:
    with Server() as server:
        settings = RedisSettings(url=server.url, timeout_seconds=_GIVE_UP_SECONDS)
        redis = Redis(settings)
        try:
            await library.load(redis)
            yield RedisFunctions(redis, settings, 0)
        finally:
            await redis.close()


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("backlog", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
