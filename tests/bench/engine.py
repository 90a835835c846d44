"""How fast the engine is with nothing but its own work to do, and what that costs.

A backlog is filled first; the provider answers at once, inside the worker. Measured from the first
claim to the last settlement, by the records, so conversation, credits and events are included. In
turns with a bare loop around the same functions (one process, the same client, claims as large, all
at once) and with the peers' empty jobs, each one process at its best setting.

Then the CPU of a generation with two workers; its round trips to Redis, by name as the server
counts them under load, and as reads of its sockets; and a thousand generations in flight in one
worker, held for longer than a lease.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple, TypeVar

from shared.clock import SystemClock
from tests.bench import bounds, contestants, figures, queue_rig
from tests.bench.contestants import Program
from tests.bench.figures import Figure, median
from tests.bench.queue_rig import QueueRig
from tests.bench.redis_monitor import monitored
from tests.support.redis_server import Server
from tests.support.waiting import until

RUNS: Final = 3
GENERATIONS: Final = 5_000
CONCURRENCIES: Final = (64, 256, 1_000)
IN_FLIGHT: Final = 1_000
STOCK: Final = "stock arq"
# Peers with a bound, as a multiple of the peer's rate.
_BOUNDS: Final = {
    "saq": bounds.OF_SAQ,
    "taskiq-redis": bounds.OF_TASKIQ,
    STOCK: bounds.OF_STOCK_ARQ,
}
# Name, file, and what share of the jobs is enough: stock arq would take half a minute for all.
PEERS: Final = (
    ("saq", "with_saq", 1.0),
    ("streaq", "with_streaq", 1.0),
    ("taskiq-redis", "with_taskiq", 1.0),
    ("arq, 10 ms", "polled_arq", 1.0),
    (STOCK, "stock_arq", 0.2),
)
_COUNTED: Final = 1_000
_HELD_SECONDS: Final = 2.5
_START_SECONDS: Final = 60.0
_SHOWN_MIN: Final = 0.01
_HALF: Final = 0.5
# The command with which the bench itself polls.
_OURS: Final = "ZCARD"

Peers = Sequence[tuple[str, str, float]]
Key = TypeVar("Key")


class Run(NamedTuple):
    """The results of one run: jobs a second, CPU seconds and socket reads of the server a job."""

    per_second: float
    cpu_seconds: float
    reads: float


async def measure(
    generations: int = GENERATIONS,
    runs: int = RUNS,
    concurrencies: Sequence[int] = CONCURRENCIES,
    in_flight: int = IN_FLIGHT,
    peers: Peers = PEERS,
) -> list[Figure]:
    """Measure all in turns; then the rest at the best concurrency."""

    async def turn() -> _Turn:
        ours, bare = {}, {}
        for concurrency in concurrencies:
            ours[concurrency] = await _ours(generations, concurrency)
            bare[concurrency] = await _bare(generations, concurrency)
        theirs = {
            name: await _peer(name, module, max(2, int(generations * share)))
            for name, module, share in peers
        }
        return _Turn(ours, bare, theirs)

    turns = await figures.rounds(runs, turn, _verdicts)
    ours, bare = _by(turn.ours for turn in turns), _by(turn.bare for turn in turns)
    theirs = _by(turn.theirs for turn in turns)
    best = max(concurrencies, key=lambda concurrency: _rate(ours[concurrency]))
    commands = await _count_commands(min(_COUNTED, generations), best)
    assert commands.get("append", 0) < _HALF, "the bare loop must append, too"
    pairs = await _pairs(generations, best, runs)
    return [
        *_race(best, ours[best], bare[best], theirs),
        _compare_concurrencies(ours, bare),
        _cpu(pairs),
        _trips(commands, ours[best]),
        await _flight(in_flight),
    ]


class _Turn(NamedTuple):
    """A run of each: ours and the bare loop by concurrency, the peers by name."""

    ours: dict[int, Run]
    bare: dict[int, Run]
    theirs: dict[str, Run]


def _verdicts(turn: _Turn) -> list[bool]:
    """Return the verdicts of this turn alone."""
    best = max(turn.ours, key=lambda concurrency: turn.ours[concurrency].per_second)
    rate = turn.ours[best].per_second
    judged = [(turn.bare[best].per_second, bounds.OF_BARE_LOOP)]
    judged += [
        (run.per_second, _BOUNDS[name]) for name, run in turn.theirs.items() if name in _BOUNDS
    ]
    return [rate >= bound * other for other, bound in judged]


def _by(turns: Iterable[dict[Key, Run]]) -> dict[Key, list[Run]]:
    found: dict[Key, list[Run]] = {}
    for turn in turns:
        for key, run in turn.items():
            found.setdefault(key, []).append(run)
    return found


def _rate(runs: Sequence[Run]) -> float:
    return median(run.per_second for run in runs)


async def _ours(generations: int, concurrency: int, workers: int = 1) -> Run:
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig(concurrency=concurrency))
        await rig.fill(generations)
        programs = [await _ready(stack, rig) for _ in range(workers)]
        before = _reads(rig.server)
        for program in programs:
            program.write_line()
        idle = [(await program.read_line())[0] for program in programs]
        polls = await rig.drained()
        reads = _reads(rig.server) - before - polls - 1
        for program in programs:
            program.write_line()
        used = [(await program.read_line())[0] for program in programs]
        done = rig.done()
        assert done.generations == generations
        cpu_seconds = (sum(used) - sum(idle)) / generations
        return Run(done.per_second, cpu_seconds, reads / generations)


async def _ready(stack: AsyncExitStack, rig: QueueRig, *options: str) -> Program:
    """Start a worker that has imported everything and waits for a line to begin."""
    words = ("work", "--silent", *options)
    program = await stack.enter_async_context(contestants.running(rig.contestant, *words))
    await program.read_line()
    return program


async def _bare(generations: int, concurrency: int) -> Run:
    async with queue_rig.running_rig(concurrency=concurrency) as rig:
        await rig.fill(generations)
        before = _reads(rig.server)
        words = ("bare", "--generations", str(generations))
        async with contestants.running(rig.contestant, *words) as program:
            seconds, cpu_seconds = await program.read_line()
            await program.ended()
        reads = _reads(rig.server) - before - 1
        assert rig.done().generations == generations
        return Run(generations / seconds, cpu_seconds / generations, reads / generations)


async def _peer(name: str, module: str, jobs: int) -> Run:
    with Server() as server:
        contestant = contestants.peer(name, module, server.url)
        async with contestants.running(contestant, "fill", str(jobs)) as program:
            await program.ended()
        before = _reads(server)
        async with contestants.running(contestant, "work", "--until", str(jobs)) as program:
            seconds, cpu_seconds = await program.read_line()
        reads = _reads(server) - before - 1
        return Run((jobs - 1) / seconds, cpu_seconds / (jobs - 1), reads / jobs)


def _reads(server: Server) -> int:
    with server.raw_client() as raw_client:
        stats: dict[str, int] = raw_client("INFO", "stats")
    return stats["total_reads_processed"]


def _race(
    best: int, ours: list[Run], bare: list[Run], theirs: dict[str, list[Run]]
) -> list[Figure]:
    rate, floor, cost = _rate(ours), _rate(bare), _cpu_us(ours)
    what = f"no-op generations a second, one process, concurrency {best}"
    peers = [
        Figure(
            f"  beside {name}",
            f"{rate / _rate(runs):.2f} times its rate",
            f"{_rate(runs):,.0f} a second, CPU a job {_cpu_us(runs):.0f} us",
            f">= {_BOUNDS[name]:g}" if name in _BOUNDS else "",
            rate >= _BOUNDS[name] * _rate(runs) if name in _BOUNDS else None,
        )
        for name, runs in theirs.items()
    ]
    return [
        Figure(what, f"{rate:,.0f}", f"CPU a generation {cost:.0f} us"),
        *peers,
        Figure(
            "of a bare loop around the same functions",
            f"{rate / floor:.2f}",
            f"{floor:,.0f} a second, CPU a generation {_cpu_us(bare):.0f} us",
            f">= {bounds.OF_BARE_LOOP}",
            rate >= bounds.OF_BARE_LOOP * floor,
        ),
    ]


def _cpu_us(runs: Sequence[Run]) -> float:
    return median(run.cpu_seconds for run in runs) * 1e6


def _compare_concurrencies(ours: dict[int, list[Run]], bare: dict[int, list[Run]]) -> Figure:
    found = ", ".join(f"{size}: {_rate(runs):,.0f}" for size, runs in ours.items())
    compared_with = ", ".join(f"{size}: {_rate(runs):,.0f}" for size, runs in bare.items())
    return Figure("generations a second by concurrency", found, f"bare {compared_with}")


async def _pairs(generations: int, concurrency: int, runs: int) -> list[tuple[Run, Run]]:
    """Run one worker and two, in turns."""

    async def pair() -> tuple[Run, Run]:
        one = await _ours(generations, concurrency)
        return one, await _ours(generations, concurrency, workers=2)

    return await figures.rounds(
        runs, pair, lambda pair: [_spread(pair) <= bounds.CPU_SPREAD_OF_TWO]
    )


def _spread(pair: tuple[Run, Run]) -> float:
    """Return by what share the CPU of a generation differs with two workers."""
    one, two = pair
    return abs(two.cpu_seconds / one.cpu_seconds - 1)


def _cpu(pairs: list[tuple[Run, Run]]) -> Figure:
    one, two = ([pair[index] for pair in pairs] for index in (0, 1))
    spread = median(map(_spread, pairs))
    return Figure(
        "CPU a generation, two workers",
        f"{_cpu_us(two):.0f} us ({_rate(two):,.0f} a second)",
        f"one worker {_cpu_us(one):.0f} us",
        f"within {bounds.CPU_SPREAD_OF_TWO:.0%}",
        spread <= bounds.CPU_SPREAD_OF_TWO,
    )


async def _count_commands(generations: int, concurrency: int) -> dict[str, float]:
    """Return the commands of a generation under load, by name."""
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig(concurrency=concurrency))
        await rig.fill(generations)
        program = await _ready(stack, rig)
        monitor = await stack.enter_async_context(monitored(rig.server, rig.redis))
        program.write_line()
        await rig.drained()
        counts = await monitor.taken()
    return {name: count / generations for name, count in counts.items() if name != _OURS}


def _trips(commands: dict[str, float], ours: list[Run]) -> Figure:
    trips = sum(count for name, count in commands.items() if name != "append")
    ordered = sorted(commands.items(), key=lambda item: -item[1])
    described = ", ".join(f"{name} {count:.2f}" for name, count in ordered if count >= _SHOWN_MIN)
    reads = median(run.reads for run in ours)
    return Figure(
        "trips to Redis a generation under load, appends aside",
        f"{trips:.2f} ({described})",
        f"reads of its sockets {reads:.2f}",
        f"<= {bounds.TRIPS_A_GENERATION:g}",
        round(trips, 2) <= bounds.TRIPS_A_GENERATION,
    )


async def _flight(in_flight: int) -> Figure:
    """Have `in_flight` claimed by one worker and none answered, for longer than a lease."""
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig(concurrency=in_flight))
        await rig.fill(in_flight)
        program = await _ready(stack, rig, "--held")
        program.write_line()

        async def are_claimed() -> bool:
            return await rig.leases() == in_flight

        await until(are_claimed, _START_SECONDS, what="leases")
        await SystemClock().sleep(_HELD_SECONDS)
        held = await rig.leases()
        program.write_line("open")
        await rig.drained()
        done = rig.done()
    return Figure(
        "in flight in one worker",
        f"{held:,}",
        f"{done.generations:,} completed in {done.attempts:,} attempts",
        f">= {in_flight:,}",
        held == in_flight == done.generations == done.attempts,
    )


async def report() -> None:
    """Measure and print."""
    title = f"engine ({RUNS} runs each, {GENERATIONS:,} generations)"
    figures.print_line(figures.table(title, await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
