"""Measures what each process and Redis hold, repeatedly.

Owns the series. Sets no bounds: `growth` compares two stretches of a series, and the command
judges.
"""

import contextlib
import resource
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import redis

from shared.redis import keys
from tests.bench.figures import median
from tests.soak import process_probe
from tests.support.redis_server import RawClient, Server

_MIB: Final = 1 << 20
_PAGE_BYTES: Final = resource.getpagesize()
# Entries of a stream that are sampled for its size.
_MEASURED: Final = 16
# The stretches that are compared, as shares of the run: after the warm-up, and the end.
_EARLY: Final = (0.2, 0.4)
_LATE: Final = (0.8, 1.0)

Point = tuple[float, float]


class WatchedProcess(NamedTuple):
    """A process that lives through the whole run, and the file of its probe."""

    name: str
    pid: int
    probe_file: Path


class Gauges:
    """All series by panel and name; a point is a second and a value."""

    def __init__(self, server: Server, root: str) -> None:
        self.series: defaultdict[str, dict[str, list[Point]]] = defaultdict(dict)
        self._server = server
        self._root = root

    def measure(self, at: float, processes: Sequence[WatchedProcess]) -> None:
        """Take one point of every series."""
        for each in processes:
            self._measure_process(at, each)
        # Redis may be away: that is one of the faults.
        with contextlib.suppress(redis.RedisError), self._server.raw_client() as raw_client:
            self._measure_redis(at, raw_client)

    def _measure_process(self, at: float, process: WatchedProcess) -> None:
        kernel = Path("/proc") / str(process.pid)
        resident = int((kernel / "statm").read_text().split()[1])
        self.note("resident memory, MiB", process.name, at, resident * _PAGE_BYTES / _MIB)
        self.note("descriptors", process.name, at, sum(1 for _ in (kernel / "fd").iterdir()))
        counts = process_probe.read_counts(process.probe_file)
        if counts is not None:
            self.note("tasks not done", process.name, at, counts[0])
            self.note("objects, thousands", process.name, at, counts[1] / 1000)

    def _measure_redis(self, at: float, raw_client: RawClient) -> None:
        used = int(raw_client("INFO", "memory")["used_memory"])
        ledger_bytes = sum(
            int(raw_client("MEMORY", "USAGE", name, "SAMPLES", _MEASURED) or 0)
            for name in raw_client.names(keys.LEDGER(self._root, "*"))
        )
        self.note("Redis' memory, MiB", "all", at, used / _MIB)
        self.note("Redis' memory, MiB", "without the ledger", at, (used - ledger_bytes) / _MIB)
        self.note("keys", "Redis", at, int(raw_client("DBSIZE")))
        clients = raw_client("INFO", "clients")["connected_clients"]
        self.note("descriptors", "Redis' clients", at, int(clients))

    def note(self, panel: str, name: str, at: float, value: float) -> None:
        """Add a point."""
        self.series[panel].setdefault(name, []).append((at, value))


def growth(points: Sequence[Point], whole_seconds: float) -> tuple[float, float] | None:
    """Return the medians of the early stretch and of the last; None if one has no points."""
    found = []
    for first, last in (_EARLY, _LATE):
        stretch = [
            value for at, value in points if first * whole_seconds <= at <= last * whole_seconds
        ]
        if not stretch:
            return None
        found.append(median(stretch))
    return found[0], found[1]


def every_growth(
    series: Mapping[str, Mapping[str, Sequence[Point]]], whole_seconds: float
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the growth of every series that has both stretches."""
    found = {}
    for panel, lines in series.items():
        for name, points in lines.items():
            grown = growth(points, whole_seconds)
            if grown is not None:
                found[panel, name] = grown
    return found
