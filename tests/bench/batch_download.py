"""What the download of a batch's results costs: its speed, the front's memory, and everybody else.

A batch that has ended is written as the workers leave it, and downloaded plain, compressed, and in
the order of finishing. Measured are lines for each second of the front's CPU, the growth of its
memory, and how much longer another tenant's messages take to be accepted meanwhile, in interleaved
pairs with and without the download.
"""

import asyncio
import random
import threading
import time
from typing import Final, NamedTuple

from shared.wire.batch import CHUNK_ITEMS_MAX
from tests.bench import bounds, figures, other_tenant, process_usage, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support.stored_batch import StoredBatch, answered

ITEMS: Final = 1_000_000
PAIRS: Final = 9
_ANSWER: Final = "The capital of France is Paris."
# Items end in input order, but for so many that run at once.
_WINDOW: Final = 256
_BUFFER_BYTES: Final = 1 << 18
_MIB: Final = 2**20


class _Read(NamedTuple):
    """A download: what was read, and the CPU that the front used for it."""

    size: int
    cpu_seconds: float
    seconds: float


async def measure(items: int = ITEMS, pairs: int = PAIRS) -> list[Figure]:
    """Download all of a batch three times, then time another tenant beside a download."""
    async with system_rig.running() as system:
        batch = await _stored(system, items)
        path = f"/api/v1/batches/{batch}/results"
        found = []
        for name, query, encoding in (
            ("plain", "", "identity"),
            ("gzip", "", "gzip"),
            ("order of finishing", "?order=finished", "identity"),
        ):
            found += await _download(
                system, name, request_of(path + query, system.key, encoding), items
            )
        request = request_of(path, system.key, "identity")
        found.append(
            await other_tenant.beside(
                system,
                "another tenant's accept beside it, p99",
                lambda stop: keep_reading(system, request, stop),
                pairs,
                bounds.BESIDE_DOWNLOAD,
            )
        )
        return found


async def _stored(system: Rig, items: int) -> str:
    batch = StoredBatch(system.redis, system.root, system.account.id)
    seqs = list(range(1, items + 1))
    chance = random.Random(1)
    for first in range(0, items, _WINDOW):
        window = seqs[first : first + _WINDOW]
        chance.shuffle(window)
        seqs[first : first + _WINDOW] = window
    for first in range(0, items, CHUNK_ITEMS_MAX):
        numbers = range(first, min(items, first + CHUNK_ITEMS_MAX))
        await batch.add([answered(number + 1, _ANSWER, seqs[number]) for number in numbers])
    return await batch.write("completed", completed=items)


async def _download(system: Rig, name: str, request: bytes, items: int) -> list[Figure]:
    process_usage.reset_peak(system.api.pid)
    resident = process_usage.resident_bytes(system.api.pid)
    read = await asyncio.to_thread(_read, system, request)
    grown = (process_usage.peak_bytes(system.api.pid) - resident) / _MIB
    speed = items / max(read.cpu_seconds, 0.01)
    return [
        Figure(
            f"{name}: lines for a second of the front's CPU",
            f"{speed:,.0f}",
            f"{items / read.seconds:,.0f} a second, {read.size / _MIB:.0f} MiB",
            f">= {bounds.DOWNLOADED_LINES:,}",
            speed >= bounds.DOWNLOADED_LINES,
        ),
        Figure(
            "  front's memory grew by",
            f"{grown:.1f} MiB",
            f"{items:,} lines",
            f"<= {bounds.DOWNLOAD_MIB} MiB",
            grown <= bounds.DOWNLOAD_MIB,
        ),
    ]


def _read(system: Rig, request: bytes, stop: threading.Event | None = None) -> _Read:
    """Read the answer as fast as it comes, until all is read or `stop` is set."""
    buffer, size = bytearray(_BUFFER_BYTES), 0
    began, cpu = time.perf_counter(), process_usage.cpu_seconds([system.api.pid])
    with other_tenant.connected(system) as sock:
        sock.sendall(request)
        while (count := sock.recv_into(buffer)) and not (stop is not None and stop.is_set()):
            size += count
    spent = process_usage.cpu_seconds([system.api.pid]) - cpu
    return _Read(size, spent, time.perf_counter() - began)


def keep_reading(system: Rig, request: bytes, stop: threading.Event) -> None:
    """Read an answer again and again, until `stop` is set."""
    while not stop.is_set():
        _read(system, request, stop)


def request_of(path: str, key: str, encoding: str) -> bytes:
    """Return the request for results."""
    head = f"GET {path} HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\nconnection: close\r\n"
    return f"{head}accept-encoding: {encoding}\r\n\r\n".encode()


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("batch_download", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
