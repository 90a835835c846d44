"""What an idle worker costs: CPU, and commands to Redis.

For one, two and ten workers, each a process, so that the commands of each worker and those of the
fleet together can be told apart. CPU is the worker's own count, user and system; commands are those
that the server receives over its sockets.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from shared.clock import SystemClock
from tests.bench import bounds, contestants, figures, queue_rig
from tests.bench.figures import Figure, median
from tests.bench.redis_monitor import monitored
from tests.support.waiting import until

FLEETS: Final = (1, 2, 10)
RUNS: Final = 3
SECONDS: Final = 10.0
_START_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 1.0


class Idle(NamedTuple):
    """The cost of a fleet: percent of a core a worker, commands a second of all, by name."""

    percent: float
    commands: float
    names: dict[str, float]


async def measure(
    fleets: Sequence[int] = FLEETS, runs: int = RUNS, seconds: float = SECONDS
) -> list[Figure]:
    """Measure idle fleets of several sizes."""
    found = {workers: await _watched(workers, runs, seconds) for workers in fleets}
    few, many = min(fleets), max(fleets)
    each = (found[many].commands - found[few].commands) / (many - few)
    shared = found[few].commands - few * each
    percent = {workers: idle.percent for workers, idle in found.items()}
    return [
        Figure(
            "an idle worker, percent of a core",
            f"{percent[few]:.2f}",
            ", ".join(f"{workers} workers {percent[workers]:.2f}" for workers in fleets[1:]),
            f"<= {bounds.IDLE_CORE_PERCENT:.0f}",
            percent[few] <= bounds.IDLE_CORE_PERCENT,
        ),
        Figure(
            "commands a second, each worker",
            f"{each:.2f}",
            f"{few}: {_describe_counts(found[few].names)}",
            f"<= {bounds.IDLE_COMMANDS_EACH:.0f}",
            each <= bounds.IDLE_COMMANDS_EACH,
        ),
        Figure(
            "commands a second, the fleet together",
            f"{shared:.2f}",
            f"{many}: {_describe_counts(found[many].names)}",
            f"<= {bounds.IDLE_COMMANDS_FLEET:.0f}",
            shared <= bounds.IDLE_COMMANDS_FLEET,
        ),
    ]


async def _watched(workers: int, runs: int, seconds: float) -> Idle:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig())
        programs = [
            await stack.enter_async_context(contestants.running(rig.contestant, "work", "--silent"))
            for _ in range(workers)
        ]
        for program in programs:
            await program.read_line()
            program.write_line()
            await program.read_line()
        await until(
            lambda: rig.server.blocked_clients() >= workers, _START_SECONDS, what="the workers"
        )
        # Wait for what they do once at the start.
        await clock.sleep(_SETTLE_SECONDS)

        async def cpu() -> float:
            for program in programs:
                program.write_line()
            return sum([(await program.read_line())[0] for program in programs])

        monitor = await stack.enter_async_context(monitored(rig.server, rig.redis))
        counts: list[Counter[str]] = []

        async def turn() -> float:
            await monitor.taken()
            before, began = await cpu(), clock.monotonic()
            await clock.sleep(seconds)
            counts.append(await monitor.taken())
            return (await cpu() - before) / (clock.monotonic() - began) / workers * 100

        percents = await figures.rounds(
            runs, turn, lambda percent: [percent <= bounds.IDLE_CORE_PERCENT]
        )
    middle = sorted(counts, key=lambda count: count.total())[len(counts) // 2]
    names = {name: count / seconds for name, count in middle.items()}
    return Idle(median(percents), sum(names.values()), names)


def _describe_counts(names: dict[str, float]) -> str:
    ordered = sorted(names.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:.1f}" for name, count in ordered)


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"idle ({RUNS} runs of {SECONDS:.0f} s)", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
