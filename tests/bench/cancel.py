"""From a cancel's POST to the moment when the upstream sees its connection go.

Answers stream in a worker; in turns one is cancelled in the middle, and one before its first token,
when only the worker's own channel can bring the word. Both clocks are of one process.
"""

import asyncio
import random
from typing import Final

from shared.clock import SystemClock
from tests.bench import aims, figures, rig
from tests.bench.figures import Figure
from tests.bench.rig import Rig
from tests.support.customer import Customer
from tests.support.provider import Answer, Request
from tests.support.waiting import until

SAMPLES: Final = 100
_PATIENCE_SECONDS: Final = 10.0
_GAP_SECONDS: Final = (0.02, 0.2)
_KINDS: Final = ("in the middle", "before the first token")


async def measure(samples: int = SAMPLES) -> list[Figure]:
    """Cancel, and watch the upstream."""
    taken: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    async with rig.running(workers=2) as system, system.customer() as customer:
        system.provider.answer = _paced
        for _ in range(samples):
            for kind in _KINDS:
                taken[kind].append(await _one(system, customer, kind))
    return [_figure(kind, seconds) for kind, seconds in taken.items()]


def _paced(request: Request) -> Answer:
    if request.last == _KINDS[0]:
        return Answer(text="word " * 500, gap_seconds=0.02)
    return Answer(text="late", first_seconds=30.0)


async def _one(system: Rig, customer: Customer, kind: str) -> float:
    system.provider.requests.clear()
    receipt = await customer.ask(kind)
    await until(lambda: system.provider.requests, _PATIENCE_SECONDS, what="the upstream call")
    await SystemClock().sleep(random.uniform(*_GAP_SECONDS))
    began = SystemClock().monotonic()
    (await customer.post(receipt["cancel_url"])).raise_for_status()
    (request,) = system.provider.requests
    await asyncio.wait_for(request.ended.wait(), _PATIENCE_SECONDS)
    assert request.gone_at is not None
    await customer.end(receipt)
    return request.gone_at - began


def _figure(kind: str, seconds: list[float]) -> Figure:
    worst = max(seconds)
    return Figure(
        f"cancel {kind}: POST to the upstream's end",
        f"{figures.quantile(seconds, 0.5) * 1000:.1f} ms, most {worst * 1000:.1f} ms",
        f"{len(seconds)} samples",
        f"<= {aims.CANCEL_SECONDS * 1000:.0f} ms",
        worst <= aims.CANCEL_SECONDS,
    )


async def report() -> None:
    """Measure and print."""
    figures.say(figures.table("cancel", await measure()))


if __name__ == "__main__":
    figures.say(figures.machine())
    asyncio.run(report())
