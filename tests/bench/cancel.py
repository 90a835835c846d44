"""From a cancel's POST to the moment at which the upstream's connection closes.

Answers stream in a worker; in turns one is cancelled in the middle, and one before its first token,
when only the worker's own channel can bring the cancel. Both times are read in one process. The
median of the worst samples of the runs is judged.
"""

import asyncio
import random
from typing import Final

from shared.clock import SystemClock
from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support.api_client import ApiClient
from tests.support.scripted_provider import Request, ScriptedAnswer
from tests.support.waiting import until

SAMPLES: Final = 100
RUNS: Final = 3
_GIVE_UP_SECONDS: Final = 10.0
_GAP_SECONDS: Final = (0.02, 0.2)
_KINDS: Final = ("in the middle", "before the first token")


# The seconds that the cancels of one run took, by their kind.
Run = dict[str, list[float]]


async def measure(samples: int = SAMPLES, runs: int = RUNS) -> list[Figure]:
    """Cancel, and watch the upstream; the samples are those of all runs."""
    async with system_rig.running(workers=2) as system, system.customer() as customer:
        system.provider.answer = _paced

        async def take() -> Run:
            run: Run = {kind: [] for kind in _KINDS}
            for _ in range(max(1, samples // runs)):
                for kind in _KINDS:
                    run[kind].append(await _one(system, customer, kind))
            return run

        turns = await figures.rounds(runs, take, verdicts)
    return [figure(kind, [run[kind] for run in turns]) for kind in _KINDS]


def verdicts(run: Run) -> list[bool]:
    """Return the verdict of one run on each kind."""
    return [max(seconds) <= bounds.CANCEL_SECONDS for seconds in run.values()]


def _paced(request: Request) -> ScriptedAnswer:
    if request.last == _KINDS[0]:
        return ScriptedAnswer(text="word " * 500, gap_seconds=0.02)
    return ScriptedAnswer(text="late", first_seconds=30.0)


async def _one(system: Rig, customer: ApiClient, kind: str) -> float:
    system.provider.requests.clear()
    receipt = await customer.submit(kind)
    await until(lambda: system.provider.requests, _GIVE_UP_SECONDS, what="the upstream call")
    await SystemClock().sleep(random.uniform(*_GAP_SECONDS))
    began = SystemClock().monotonic()
    (await customer.post(receipt["cancel_url"])).raise_for_status()
    (request,) = system.provider.requests
    await asyncio.wait_for(request.ended.wait(), _GIVE_UP_SECONDS)
    assert request.gone_at is not None
    await customer.wait_for_end(receipt)
    return figures.sample(request.gone_at - began, f"a cancel {kind}")


def figure(kind: str, turns: list[list[float]]) -> Figure:
    """Judge by the median of the runs' worst."""
    worst = figures.median(max(seconds) for seconds in turns)
    middle = figures.median(figures.quantile(seconds, 0.5) for seconds in turns)
    count, most = sum(map(len, turns)), max(map(max, turns))
    return Figure(
        f"cancel {kind}: POST to the upstream's end",
        f"{middle * 1000:.1f} ms, worst {worst * 1000:.1f} ms, the median of {len(turns)}",
        f"{count} samples, most {most * 1000:.1f} ms",
        f"<= {bounds.CANCEL_SECONDS * 1000:.0f} ms",
        worst <= bounds.CANCEL_SECONDS,
    )


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("cancel", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
