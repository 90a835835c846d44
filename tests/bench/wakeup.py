"""From the moment a client begins to enqueue to the moment the job's function begins.

At the level of the queue: no HTTP, no provider. Both moments are of the machine's monotonic clock,
read in the client's process and in the worker's (for ours where arq calls `on_job_start`, right
before the function). In turns with the peers, in a random order each time; all on one server, all
with as many workers, which have nothing else to do. Ours and the first peer also on a server that
syncs each write to disk, where they are compared with each other only.

Then, whether more idle workers make one generation cost more: the commands that the server receives
while generations come one by one, minus those in the same time without. More workers may make it
less: a worker that is woken up does not wake by its own timeout.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from shared.clock import SystemClock
from tests.bench import bounds, contestants, figures, process_usage, queue_rig
from tests.bench.contestants import Contestant, Program
from tests.bench.figures import Figure
from tests.bench.queue_rig import QueueRig
from tests.bench.redis_monitor import RedisMonitor, monitored
from tests.support.waiting import until

SAMPLES: Final = 300
WORKERS: Final = 2
MANY_WORKERS: Final = 50
PEERS: Final = (
    ("bare BLMOVE", "bare"),
    ("saq", "with_saq"),
    ("taskiq-redis", "with_taskiq"),
    ("stock arq", "stock_arq"),
)
RUNS: Final = 3
# As long as the longest interval of an idle worker.
COUNT_SECONDS: Final = 5.0
_GENERATIONS_A_SECOND: Final = 20
_WARM_UP: Final = 5
# With all contestants in turns, each of them pauses several times as long.
_GAP_SECONDS: Final = (0.02, 0.06)
_START_SECONDS: Final = 60.0
_BOUNDS: Final = (("p50", 0.5, bounds.WAKEUP_P50_MS), ("p99", 0.99, bounds.WAKEUP_P99_MS))


class _Sampled:
    """A running contestant: its client, and the output of its workers."""

    def __init__(self, name: str, client: Program, workers: list[Program]) -> None:
        self.name = name
        self.taken: list[float] = []
        self.cpu_us = 0.0
        self._cpu_seconds = 0.0
        self._client = client
        self._workers = workers
        self._begun: dict[float, float] = {}
        self._has_begun = asyncio.Event()
        self._listening = [asyncio.create_task(self._listen(worker)) for worker in workers]

    async def sample(self) -> float:
        """Enqueue once and return the seconds until the function of that very job began."""
        self._client.write_line()
        number, before = await self._client.read_line()
        async with asyncio.timeout(_START_SECONDS):
            while number not in self._begun:
                self._has_begun.clear()
                await self._has_begun.wait()
        seconds = self._begun.pop(number) - before
        assert seconds >= 0, f"{self.name}: a job began {-seconds:.6f} s before it was enqueued"
        assert not self._begun, f"{self.name}: a job began that was not enqueued, or twice"
        return seconds

    def cpu_seconds(self) -> float:
        """Return the CPU time of the workers so far."""
        return process_usage.cpu_seconds(worker.pid for worker in self._workers)

    def note_cpu(self, seconds: float) -> None:
        """Add CPU time of the workers while samples were taken."""
        self._cpu_seconds += seconds
        self.cpu_us = self._cpu_seconds / len(self.taken) * 1e6

    async def close(self) -> None:
        """Stop reading the output of the workers."""
        for listening in self._listening:
            listening.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)

    async def _listen(self, worker: Program) -> None:
        while True:
            number, at = await worker.read_line(patience_seconds=None)
            self._begun[number] = at
            self._has_begun.set()


async def measure(
    samples: int = SAMPLES,
    many_workers: int = MANY_WORKERS,
    runs: int = RUNS,
    seconds: float = COUNT_SECONDS,
    peers: Sequence[tuple[str, str]] = PEERS,
    workers: int = WORKERS,
) -> list[Figure]:
    """Take samples of all contestants, then count commands."""
    lines, synced = await _sampled(max(1, samples // runs), runs, peers, workers)
    few, many = [await _counted(number, runs, seconds) for number in (workers, many_workers)]
    return [
        *_pickup(lines, workers),
        *_synced(synced),
        _cpu([*lines, *synced]),
        Figure(
            f"commands a generation, {many_workers} idle workers",
            f"{sum(many.values()):.2f} ({_describe_counts(many)})",
            f"{workers} idle workers {sum(few.values()):.2f}",
            "no more",
            sum(many.values()) <= sum(few.values()) + bounds.COMMANDS_OF_MANY_WORKERS,
        ),
    ]


async def _sampled(
    samples: int, runs: int, peers: Sequence[tuple[str, str]], workers: int
) -> tuple[list[_Sampled], list[_Sampled]]:
    """Return the contestants on a server that syncs nothing, and those on one that syncs writes.

    The samples of all rounds count together.
    """
    async with AsyncExitStack() as stack:
        rigs = [
            await stack.enter_async_context(queue_rig.running_rig(is_durable=is_durable))
            for is_durable in (False, True)
        ]
        lines: tuple[list[_Sampled], list[_Sampled]] = ([], [])
        for rig, found, word in zip(rigs, lines, ("process", "fsync"), strict=True):
            account = ("--account", rig.account)
            found.append(await _start(stack, f"ours, {word}", rig.contestant, workers, *account))
            # One peer on the synced server is enough to tell its disk from our queue.
            for name, module in peers if word == "process" else peers[:1]:
                contestant = contestants.peer(name, module, rig.server.url)
                label = name if word == "process" else f"{name}, {word}"
                found.append(await _start(stack, label, contestant, workers))

        async def take() -> list[float]:
            return await _take(samples, [*lines[0], *lines[1]])

        await figures.rounds(runs, take, _verdicts)
        return lines


def _verdicts(taken: list[float]) -> list[bool]:
    """Return the verdicts of these samples of ours alone."""
    return [figures.quantile(taken, share) * 1000 <= bound for _, share, bound in _BOUNDS]


async def _take(samples: int, lines: list[_Sampled]) -> list[float]:
    """Take samples of all contestants in turns, with their workers' CPU; return our samples."""
    clock = SystemClock()
    before: dict[str, float] = {}
    warm_up = min(_WARM_UP, samples)
    for number in range(samples + warm_up):
        if number == warm_up:
            before = {line.name: line.cpu_seconds() for line in lines}
        for line in random.sample(lines, len(lines)):
            await clock.sleep(random.uniform(*_GAP_SECONDS))
            taken = await line.sample()
            if number >= warm_up:
                line.taken.append(taken)
    for line in lines:
        line.note_cpu(line.cpu_seconds() - before[line.name])
    return lines[0].taken[-samples:]


async def _start(
    stack: AsyncExitStack, name: str, contestant: Contestant, workers: int, *options: str
) -> _Sampled:
    started = [
        await stack.enter_async_context(contestants.running(contestant, "work"))
        for _ in range(workers)
    ]
    client = await stack.enter_async_context(contestants.running(contestant, "enqueue", *options))
    line = _Sampled(name, client, started)
    stack.push_async_callback(line.close)
    return line


def _ms(lines: list[_Sampled], share: float) -> list[tuple[str, float]]:
    return [(line.name, figures.quantile(line.taken, share) * 1000) for line in lines]


def _pickup(lines: list[_Sampled], workers: int) -> list[Figure]:
    found = []
    for name, share, bound in _BOUNDS:
        (_, own), *others = _ms(lines, share)
        found.append(
            Figure(
                f"enqueue to function, {name}, {workers} idle workers",
                f"{own:.2f} ms",
                ", ".join(f"{other} {milliseconds:.2f}" for other, milliseconds in others),
                f"<= {bound} ms",
                own <= bound,
            )
        )
    return found


def _synced(lines: list[_Sampled]) -> list[Figure]:
    """Compare with the peer on the synced server; no bound, because the time is the disk's."""
    found = []
    for name, share, _ in _BOUNDS:
        (_, own), *others = _ms(lines, share)
        compared_with = ", ".join(f"{other} {milliseconds:.2f}" for other, milliseconds in others)
        found.append(Figure(f"each write synced to disk, {name}", f"{own:.2f} ms", compared_with))
    return found


def _cpu(lines: list[_Sampled]) -> Figure:
    """Return the CPU of the workers a job, with what they do while they wait for it."""
    ours, *others = lines
    compared_with = ", ".join(f"{line.name} {line.cpu_us:,.0f}" for line in others)
    return Figure(
        "CPU of all workers a job, waiting included", f"{ours.cpu_us:,.0f} us", compared_with
    )


async def _counted(workers: int, runs: int, seconds: float) -> dict[str, float]:
    """Return the commands of a generation by name, of the median run."""
    # Two processes run all of them, so that starting many processes does not distort the counts.
    shares = [share for share in (workers // 2, workers - workers // 2) if share]
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig())
        for share in shares:
            words = ("work", "--silent", "--workers", str(share))
            program = await stack.enter_async_context(contestants.running(rig.contestant, *words))
            await program.read_line()
            program.write_line()
        monitor = await stack.enter_async_context(monitored(rig.server, rig.redis))
        await until(
            lambda: rig.server.blocked_clients() >= workers, _START_SECONDS, what="the workers"
        )
        generations = max(1, round(seconds * _GENERATIONS_A_SECOND))
        found: list[dict[str, float]] = []
        for _ in range(runs):
            idle = await _while(rig, monitor, 0, seconds)
            busy = await _while(rig, monitor, generations, seconds)
            busy.subtract(idle)
            found.append({name: count / generations for name, count in busy.items()})
        assert rig.done().generations == generations * runs
    return sorted(found, key=lambda each: sum(each.values()))[runs // 2]


async def _while(
    rig: QueueRig, monitor: RedisMonitor, generations: int, seconds: float
) -> Counter[str]:
    """Count commands for `seconds`, while `generations` generations come one by one."""
    clock = SystemClock()
    await monitor.taken()
    began = clock.monotonic()
    for number in range(generations):
        await clock.sleep(max(0.0, began + number * seconds / generations - clock.monotonic()))
        await rig.accept()
    await clock.sleep(max(0.0, began + seconds - clock.monotonic()))
    counts = await monitor.taken()
    await rig.drained()
    return counts


def _describe_counts(counts: dict[str, float]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -abs(item[1]))
    return ", ".join(f"{name} {count:.2f}" for name, count in ordered if abs(count) >= 0.05)


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"wakeup ({SAMPLES} samples each)", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
