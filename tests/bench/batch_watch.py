"""Watches a batch that runs: its progress, what the API foretells of its end, workers' memory.

Owns the samples and the figures that come from them. What was foretold is judged once the end is
known.
"""

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from shared.clock import SystemClock
from tests.bench import bounds, figures, process_usage
from tests.bench.figures import Figure, median
from tests.bench.system_rig import Rig
from tests.support.api_client import body

_PAUSE_SECONDS: Final = 0.1
_GIVE_UP_SECONDS: Final = 3_600.0
# What the API foretells is judged by what was said between these shares of the items.
_JUDGED: Final = (0.1, 0.9)
# The API measures the rate over so many seconds at most.
_RATE_SECONDS: Final = 30.0
_MIB: Final = 2**20
_FINAL: Final = ("completed", "failed", "cancelled", "expired")


class Sample(NamedTuple):
    """A moment: items that had ended, what the API said of the rest, bytes of each worker."""

    at: float
    ended: int
    rate: float | None = None
    p50: float | None = None
    p90: float | None = None
    resident: tuple[int, ...] = ()


async def watch(system: Rig, batch: str) -> list[Sample]:
    """Take samples of a batch until it has ended; it must have completed."""
    samples = [Sample(time.perf_counter(), 0, resident=_resident(system))]
    clock = SystemClock()
    async with system.customer() as customer:
        while True:
            seen = body(await customer.get(f"/api/v1/batches/{batch}"))
            samples.append(_sample(seen, _resident(system)))
            if seen["state"] in _FINAL:
                assert seen["state"] == "completed", seen
                return samples
            assert samples[-1].at - samples[0].at < _GIVE_UP_SECONDS, seen
            await clock.sleep(_PAUSE_SECONDS)


def _resident(system: Rig) -> tuple[int, ...]:
    return tuple(process_usage.resident_bytes(worker.pid) for worker in system.workers)


def _sample(seen: dict[str, Any], resident: tuple[int, ...]) -> Sample:
    ended = sum(seen["counts"][state] for state in _FINAL)
    eta = seen["eta_seconds"] or {}
    return Sample(
        time.perf_counter(),
        ended,
        seen["items_per_second"],
        eta.get("p50"),
        eta.get("p90"),
        resident,
    )


def longest_gap(samples: Sequence[Sample]) -> float:
    """Return the longest time in which no item was seen to end."""
    longest, last = 0.0, samples[0]
    for sample in samples:
        if sample.ended > last.ended:
            longest, last = max(longest, sample.at - last.at), sample
    return longest


def rate_errors(samples: Sequence[Sample]) -> list[float]:
    """Return how far each rate that was shown is from what was counted, as a share of that."""
    found, first = [], 0
    for sample in _judged(samples):
        while sample.at - samples[first].at > _RATE_SECONDS:
            first += 1
        counted = (sample.ended - samples[first].ended) / (sample.at - samples[first].at)
        if sample.rate is not None and counted > 0:
            found.append(abs(sample.rate / counted - 1))
    return found


def eta_errors(samples: Sequence[Sample]) -> list[float]:
    """Return how far each p50 is from the time that was left, as a share of that."""
    end = samples[-1].at
    return [
        abs(sample.p50 / (end - sample.at) - 1)
        for sample in _judged(samples)
        if sample.p50 is not None
    ]


def eta_kept(samples: Sequence[Sample]) -> float:
    """Return the share of p90s by which the batch had ended."""
    end = samples[-1].at
    said = [sample for sample in _judged(samples) if sample.p90 is not None]
    kept = sum(sample.at + (sample.p90 or 0) >= end for sample in said)
    return kept / len(said) if said else 0.0


def _judged(samples: Sequence[Sample]) -> list[Sample]:
    least, most = (share * samples[-1].ended for share in _JUDGED)
    return [sample for sample in samples if least <= sample.ended <= most]


def growth_mib(samples: Sequence[Sample]) -> float:
    """Return by how much a worker has grown: the last tenth of the time, beside the third one."""
    began, took = samples[0].at, samples[-1].at - samples[0].at

    def level(worker: int, first: float, last: float) -> float:
        within = [each for each in samples if first <= (each.at - began) / took <= last]
        return median(each.resident[worker] for each in within or samples)

    workers = range(len(samples[0].resident))
    return max((level(each, 0.9, 1.0) - level(each, 0.2, 0.3)) / _MIB for each in workers)


def progress_figures(samples: Sequence[Sample]) -> list[Figure]:
    """Return what the samples say."""
    gap, grown = longest_gap(samples), growth_mib(samples)
    last = max(samples[-1].resident) / _MIB
    return [
        _bounded("longest time without an end", gap, bounds.BATCH_GAP_SECONDS, "{:.2f} s"),
        _bounded(
            "a worker's memory grew by", grown, bounds.BATCH_WORKER_MIB, "{:.1f} MiB", f"{last:.0f}"
        ),
        _error("rate that the API shows, off by", rate_errors(samples), bounds.SHOWN_RATE_ERROR),
        _error("ETA p50 that it shows, off by", eta_errors(samples), bounds.SHOWN_ETA_ERROR),
        Figure("  its p90 was kept", f"{eta_kept(samples):.0%} of times"),
    ]


def _bounded(name: str, found: float, bound: float, form: str, compared: str = "") -> Figure:
    return Figure(name, form.format(found), compared, f"<= {form.format(bound)}", found <= bound)


def _error(name: str, errors: list[float], bound: float) -> Figure:
    most = figures.quantile(errors, 0.9) if errors else 0.0
    middle = median(errors) if errors else 0.0
    return _bounded(name, middle, bound, "{:.1%}", f"p90 {most:.1%}, {len(errors):,} samples")
