"""From a POST to the upstream's first byte, with idle workers.

From the moment before a client sends its POST to the moment at which the scripted upstream has the
request; both are read in one process. In turns with stock arq: as many workers, the same server,
the same upstream. The pauses between samples are random, so that a polling worker is met at any
point of its interval.
"""

import asyncio
import random
from contextlib import ExitStack
from typing import Final, NamedTuple

import httpx

from shared.clock import SystemClock
from tests.bench import figures, process_usage, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support import processes
from tests.support.scripted_provider import Request
from tests.support.waiting import until

SAMPLES: Final = 300
WORKERS: Final = 2
RUNS: Final = 3
_WARM_UP: Final = 5
_GAP_SECONDS: Final = (0.02, 0.3)
_GIVE_UP_SECONDS: Final = 10.0


class Run(NamedTuple):
    """The seconds of one run: of ours, and of the peer."""

    ours: list[float]
    theirs: list[float]


async def measure(samples: int = SAMPLES, runs: int = RUNS) -> list[Figure]:
    """Take samples of both, in turns; they are those of all runs."""
    async with system_rig.running(workers=WORKERS) as system:
        with ExitStack() as stack:
            port = processes.free_port()
            url = f"http://127.0.0.1:{port}"
            stock = ["tests.bench.arq_front", "--redis", system.server.url]
            workers = [
                stack.enter_context(system_rig.program([*stock, "worker"], system.environment))
                for _ in range(WORKERS)
            ]
            words = [*stock, "front", "--port", str(port), "--upstream", system.provider.url]
            stack.enter_context(system_rig.program(words, system.environment))
            await system_rig.answers(f"{url}/readyz")
            fleets = [[worker.pid for worker in fleet] for fleet in (system.workers, workers)]
            before = [process_usage.cpu_seconds(pids) for pids in fleets]
            each = max(1, samples // runs)
            # Nothing is judged: there is no bound.
            turns = await figures.rounds(
                runs, lambda: _sample(system, f"{url}/submit", each), lambda _: ()
            )
            jobs = len(turns) * (each + min(_WARM_UP, each))
            cpu_ms = [
                (process_usage.cpu_seconds(pids) - spent) / jobs * 1000
                for pids, spent in zip(fleets, before, strict=True)
            ]
    return [
        *(figure(name, share, turns) for name, share in (("p50", 0.5), ("p99", 0.99))),
        Figure(
            "CPU of all workers a job, waiting included",
            f"{cpu_ms[0]:.1f} ms",
            f"stock arq {cpu_ms[1]:.1f} ms",
        ),
    ]


def figure(name: str, share: float, turns: list[Run]) -> Figure:
    """Return the medians of the runs."""
    ours, theirs = [
        figures.median(figures.quantile(taken, share) for taken in side) * 1000
        for side in ([run.ours for run in turns], [run.theirs for run in turns])
    ]
    return Figure(
        f"POST to upstream, {name}, {WORKERS} idle workers",
        f"{ours:.1f} ms, the median of {len(turns)}",
        f"stock arq {theirs:.1f} ms",
    )


async def _sample(system: Rig, theirs_url: str, samples: int) -> Run:
    clock, run = SystemClock(), Run([], [])
    warm_up = min(_WARM_UP, samples)
    async with system.customer() as customer:
        targets = ((f"{system.url}/api/v1/chat", run.ours), (theirs_url, run.theirs))
        for number in range(samples + warm_up):
            for url, taken in targets:
                await clock.sleep(random.uniform(*_GAP_SECONDS))
                seconds = await _one(system, customer, url, f"sample {number} of {url}")
                if number >= warm_up:
                    taken.append(seconds)
    return run


async def _one(system: Rig, client: httpx.AsyncClient, url: str, message: str) -> float:
    system.provider.requests.clear()
    began = SystemClock().monotonic()
    (await client.post(url, json={"message": message})).raise_for_status()
    request: Request | None = await until(
        lambda: _arrived(system, message), _GIVE_UP_SECONDS, what=message
    )
    assert request is not None
    await asyncio.wait_for(request.ended.wait(), _GIVE_UP_SECONDS)
    return figures.sample(request.came_at - began, message)


def _arrived(system: Rig, message: str) -> Request | None:
    return next((found for found in system.provider.requests if found.last == message), None)


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"pickup ({SAMPLES} samples each)", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
