"""Ten thousand followers of one front: their memory, their lateness, and the effect on others.

The followers are processes of their own; the bench plays the worker and appends events that contain
the time of the append. Memory is the growth of the front's resident set, a follower. Meanwhile one
client polls a status all the time.

Then one generation with one follower and with a thousand: what the worker and the server spend on
it must not depend on the number of followers.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from shared.clock import SystemClock
from shared.redis import functions
from shared.redis.functions import Claimed, KeepTimes
from shared.wire import event as events
from shared.wire.submission import WIRE
from tests.bench import bounds, contestants, figures, process_usage, system_rig
from tests.bench.contestants import Contestant, Program
from tests.bench.figures import Figure
from tests.bench.redis_monitor import monitored
from tests.bench.system_rig import Rig
from tests.support.scripted_provider import ScriptedAnswer

FOLLOWERS: Final = 10_000
GENERATIONS: Final = 100
SECONDS: Final = 10.0
MANY_FOLLOWERS: Final = 1_000
RUNS: Final = 3
_PROGRAMS: Final = 4
_KIB: Final = 1024
_SETTLE_SECONDS: Final = 1.0
_BETWEEN_SECONDS: Final = 0.01
_TOKENS: Final = 50
_TOKEN_SECONDS: Final = 0.01
PACED_GENERATIONS: Final = 10


class _Round(NamedTuple):
    """Deliveries a second, how late they were, and how long another request took, in ms."""

    delivered: float
    late_p50: float
    late_p99: float
    others_p99: float

    def verdicts(self) -> list[bool]:
        """Return the verdicts of this round alone."""
        return [self.late_p99 <= bounds.DELIVERY_P99_MS, self.others_p99 <= bounds.OTHERS_P99_MS]


async def measure(
    followers: int = FOLLOWERS,
    generations: int = GENERATIONS,
    seconds: float = SECONDS,
    many_followers: int = MANY_FOLLOWERS,
    runs: int = RUNS,
    paced: int = PACED_GENERATIONS,
) -> list[Figure]:
    """Start the followers, and send each of them one event a second."""
    async with system_rig.running() as system:
        source = _Source(system, await _claimed(system, generations))
        before = process_usage.resident_bytes(system.api.pid)
        async with _followers(system, source.ids, followers) as programs:
            await SystemClock().sleep(_SETTLE_SECONDS)
            weight = (process_usage.resident_bytes(system.api.pid) - before) / followers / _KIB
            rounds = await figures.rounds(
                runs, lambda: source.play(programs, seconds), _Round.verdicts
            )
    found = _Round(*(figures.median(column) for column in zip(*rounds, strict=True)))
    return [
        Figure(
            f"KiB a follower, {followers:,} of them",
            f"{weight:.1f}",
            f"{generations} generations",
            f"<= {bounds.FOLLOWER_KIB:.0f}",
            weight <= bounds.FOLLOWER_KIB,
        ),
        Figure(
            f"delivery p99, {found.delivered:,.0f} a second",
            f"{found.late_p99:.1f} ms",
            f"p50 {found.late_p50:.1f}",
            f"<= {bounds.DELIVERY_P99_MS:.0f} ms",
            found.late_p99 <= bounds.DELIVERY_P99_MS,
        ),
        Figure(
            "another request meanwhile, p99",
            f"{found.others_p99:.1f} ms",
            "",
            f"<= {bounds.OTHERS_P99_MS:.0f} ms",
            found.others_p99 <= bounds.OTHERS_P99_MS,
        ),
        *await _one_and_many(many_followers, runs, paced),
    ]


async def _claimed(system: Rig, count: int) -> list[Claimed]:
    """Submit `count` messages and claim them, as a worker that never settles."""
    async with system.customer() as customer:
        for _ in range(count):
            await customer.submit("hello")
    ask = functions.ClaimAsk(
        claim=1,
        worker="bench",
        wire=WIRE,
        count=count,
        lease_ms=86_400_000,
        batch=0,
        keep=KeepTimes.of(system.settings.retention),
    )
    return (await functions.claim(system.redis, system.root, ask)).claimed


@asynccontextmanager
async def _followers(system: Rig, ids: list[str], followers: int) -> AsyncIterator[list[Program]]:
    """Run the followers, spread evenly over the generations and a few processes."""
    each = followers // len(ids)
    shares = [share for n in range(_PROGRAMS) if (share := (each + n) // _PROGRAMS)]
    words = ["--port", system.url.rpartition(":")[2], "--key", system.key, "--each"]
    paths = [f"/api/v1/generate/{id_}/events" for id_ in ids]
    contestant = Contestant(
        "followers", (sys.executable, "-m", "tests.bench.follower_process"), "", system.environment
    )
    async with AsyncExitStack() as stack:
        programs = [
            await stack.enter_async_context(
                contestants.running(contestant, *words, str(share), *paths)
            )
            for share in shares
        ]
        for program in programs:
            await program.read_line()
        yield programs


class _Source:
    """Generations whose worker is the bench: it appends the current time to each."""

    def __init__(self, system: Rig, held: list[Claimed]) -> None:
        self.ids = [claimed.id for claimed in held]
        self._system = system
        self._held = held
        self._clock = SystemClock()
        self._seq = 0

    async def play(self, programs: list[Program], seconds: float) -> _Round:
        """Append to one generation after the other, to all of them each second."""
        await _take_deliveries(programs)
        others: list[float] = []
        asking = asyncio.create_task(self._keep_polling(others))
        began = self._clock.monotonic()
        for second in range(max(1, round(seconds))):
            self._seq += 1
            for number, claimed in enumerate(self._held):
                due = began + second + number / len(self._held)
                await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
                await self._append_moment(claimed)
        took = self._clock.monotonic() - began
        await self._clock.sleep(_SETTLE_SECONDS)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        deliveries = await _take_deliveries(programs)
        return _Round(
            delivered=sum(count for count, _, _ in deliveries) / took,
            late_p50=figures.median(half for _, half, _ in deliveries),
            late_p99=max(worst for _, _, worst in deliveries),
            others_p99=figures.quantile(others, 0.99) * 1000,
        )

    async def _append_moment(self, claimed: Claimed) -> None:
        text = f"@{self._clock.monotonic():.6f}"
        ask = functions.AppendAsk(
            account=claimed.account,
            id=claimed.id,
            attempt=claimed.attempt,
            seq=self._seq,
            events=[events.encode(events.Delta(text))],
            text=text,
            stage="generating",
        )
        assert await functions.append(self._system.redis, claimed.root, ask) == "appended"

    async def _keep_polling(self, took: list[float]) -> None:
        """Poll a status repeatedly, and note how long each poll took."""
        path = f"/api/v1/generate/{self.ids[0]}/status"
        async with self._system.customer() as customer:
            while True:
                began = self._clock.monotonic()
                assert (await customer.get(path)).status_code == 200
                took.append(self._clock.monotonic() - began)
                await self._clock.sleep(_BETWEEN_SECONDS)


async def _take_deliveries(programs: list[Program]) -> list[list[float]]:
    """Return the deliveries of each process since the last call: count, p50 and p99 in ms."""
    for program in programs:
        program.write_line()
    return [await program.read_line() for program in programs]


async def _one_and_many(many_followers: int, runs: int, paced: int) -> list[Figure]:
    """Compare what a generation costs behind the front with one follower and with many."""
    async with system_rig.running(workers=1) as system:

        async def turn() -> dict[int, tuple[float, float]]:
            return {count: await _paced(system, count, paced) for count in (1, many_followers)}

        def verdicts(turn: dict[int, tuple[float, float]]) -> list[bool]:
            pairs = zip(turn[many_followers], turn[1], strict=True)
            return [many <= one * bounds.MANY_FOLLOWERS_TIMES for many, one in pairs]

        turns = await figures.rounds(runs, turn, verdicts)
    cpu = {n: figures.median(turn[n][0] for turn in turns) for n in (1, many_followers)}
    command_counts = {n: figures.median(turn[n][1] for turn in turns) for n in (1, many_followers)}
    return [
        Figure(
            f"CPU of worker and server a generation, {many_followers:,} followers",
            f"{cpu[many_followers]:.1f} ms",
            f"1 follower {cpu[1]:.1f}",
            f"<= {bounds.MANY_FOLLOWERS_TIMES} times",
            cpu[many_followers] <= cpu[1] * bounds.MANY_FOLLOWERS_TIMES,
        ),
        Figure(
            f"commands of the server a generation, {many_followers:,} followers",
            f"{command_counts[many_followers]:.1f}",
            f"1 follower {command_counts[1]:.1f}",
            f"<= {bounds.MANY_FOLLOWERS_TIMES} times",
            command_counts[many_followers] <= command_counts[1] * bounds.MANY_FOLLOWERS_TIMES,
        ),
    ]


async def _paced(system: Rig, followers: int, generations: int) -> tuple[float, float]:
    """Return the CPU in ms and the commands that a generation of fifty tokens takes."""
    pids = [system.server.pid, *(worker.pid for worker in system.workers)]
    commands: Counter[str] = Counter()
    cpu = 0.0
    async with system.customer() as customer, AsyncExitStack() as stack:
        monitor = await stack.enter_async_context(monitored(system.server, system.redis))
        for _ in range(generations):
            gate = asyncio.Event()
            text = " ".join(["word"] * _TOKENS)
            system.provider.script.append(
                ScriptedAnswer(text=text, gate=gate, gap_seconds=_TOKEN_SECONDS)
            )
            receipt = await customer.submit("hello")
            async with _followers(system, [receipt["message_id"]], followers):
                await monitor.taken()
                before = process_usage.cpu_seconds(pids)
                gate.set()
                await customer.wait_for_end(receipt)
                cpu += process_usage.cpu_seconds(pids) - before
                commands += await monitor.taken()
    return cpu / generations * 1000, commands.total() / generations


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("followers", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
