"""What the upload of a batch costs: its speed, the front's memory, Redis, and everybody else.

A file of short prompts is sent as JSON lines, as gzip, and as JSON documents of at most 32 MiB.
Measured are lines a second and for each second of the front's CPU, the growth of its memory, the
bytes of Redis for each waiting item beside its compressed text, and how much longer another
tenant's messages take to be accepted meanwhile, in interleaved pairs with and without an upload. No
worker runs, so all items wait.
"""

import asyncio
import gzip
import json
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.bench import bounds, figures, other_tenant, process_usage, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig

PROMPTS: Final = 1_000_000
PAIRS: Final = 9
_PART_BYTES: Final = 1 << 20
# A document may have 32 MiB.
_DOCUMENT_PROMPTS_MAX: Final = 280_000
_MIB: Final = 2**20


class Sent(NamedTuple):
    """An upload: its size, the front's CPU for it, how long it took, and the batch's id."""

    size: int
    cpu_seconds: float
    seconds: float
    batch: str = ""


class Upload(NamedTuple):
    """What was sent, and its figures."""

    sent: Sent
    figures: list[Figure]


async def measure(prompts: int = PROMPTS, pairs: int = PAIRS) -> list[Figure]:
    """Upload all prompts in three forms, then time another tenant beside an upload."""
    async with system_rig.running() as system:
        lines = b"".join(prompt_lines(prompts))
        before = await used_bytes(system)
        forms = [await upload(system, "JSON lines", {}, lines, prompts)]
        stored = await used_bytes(system) - before
        packed = gzip.compress(lines, 1)
        forms.append(await upload(system, "gzip", {"content-encoding": "gzip"}, packed, prompts))
        count = min(prompts, _DOCUMENT_PROMPTS_MAX)
        document = b'{"items":[' + b",".join(prompt_lines(count)) + b"]}"
        as_json = {"content-type": "application/json"}
        forms.append(await upload(system, "a document", as_json, document, count))
        found = [figure for form in forms for figure in form.figures]
        found.append(waiting_bytes(stored, lines, prompts))
        request = request_of(system, {}, lines)
        found.append(
            await other_tenant.beside(
                system,
                "another tenant's accept beside it, p99",
                lambda stop: keep_sending(system, request, stop),
                pairs,
                bounds.BESIDE_UPLOAD,
            )
        )
        return found


def prompt_lines(prompts: int) -> Iterator[bytes]:
    """Yield the lines of a file of short prompts, each with its number."""
    for number in range(1, prompts + 1):
        text = f"Translate sentence {number} into French: how are you today?"
        yield json.dumps({"custom_id": f"prompt-{number}", "message": text}).encode() + b"\n"


async def upload(
    system: Rig, name: str, fields: dict[str, str], content: bytes, prompts: int
) -> Upload:
    """Upload prompts with these header fields."""
    pid = system.api.pid
    process_usage.reset_peak(pid)
    resident = process_usage.resident_bytes(pid)
    sent = await asyncio.to_thread(_send, system, request_of(system, fields, content))
    grown = (process_usage.peak_bytes(pid) - resident) / _MIB
    speed = prompts / max(sent.cpu_seconds, 0.01)
    found = [
        Figure(
            f"{name}: lines for a second of the front's CPU",
            f"{speed:,.0f}",
            f"{prompts / sent.seconds:,.0f} a second, {sent.size / sent.seconds / 1e6:.1f} MB/s",
            f">= {bounds.UPLOADED_LINES:,}",
            speed >= bounds.UPLOADED_LINES,
        ),
        Figure(
            "  front's memory grew by",
            f"{grown:.1f} MiB",
            f"{prompts:,} lines, {sent.size / _MIB:.0f} MiB",
            f"<= {bounds.UPLOAD_MIB} MiB",
            grown <= bounds.UPLOAD_MIB,
        ),
    ]
    return Upload(sent, found)


def waiting_bytes(stored: int, lines: bytes, prompts: int) -> Figure:
    """Return what an item that waits takes beside its text, of all that is stored."""
    text = len(zlib.compress(lines, 1))
    each = (stored - text) / prompts
    return Figure(
        "Redis bytes of a waiting item beside its text",
        f"{each:.0f}",
        f"compressed text {text / prompts:.0f}",
        f"<= {bounds.WAITING_BYTES}",
        each <= bounds.WAITING_BYTES,
    )


async def used_bytes(system: Rig) -> int:
    """Return the memory of the server."""
    text: bytes = await system.redis.call("INFO", "memory")
    rows = dict(row.split(":", 1) for row in text.decode().split("\r\n") if ":" in row)
    return int(rows["used_memory"])


def request_of(system: Rig, fields: dict[str, str], content: bytes) -> bytes:
    """Return the upload of a file."""
    named = {
        "host": "bench",
        "x-api-key": system.key,
        "content-type": "application/x-ndjson",
        "content-length": str(len(content)),
        "connection": "close",
        **fields,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST /api/v1/batches HTTP/1.1\r\n{head}\r\n".encode() + content


def _send(system: Rig, request: bytes, stop: threading.Event | None = None) -> Sent:
    """Send a batch as fast as it is taken, until all is sent or `stop` is set."""
    cpu, began = process_usage.cpu_seconds([system.api.pid]), time.perf_counter()
    answer = b""
    with other_tenant.connected(system) as sock:
        for first in range(0, len(request), _PART_BYTES):
            if stop is not None and stop.is_set():
                return Sent(first, 0.0, 0.0)
            sock.sendall(request[first : first + _PART_BYTES])
        while part := sock.recv(_PART_BYTES):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b'"invalid":0' in answer, answer
    spent = process_usage.cpu_seconds([system.api.pid]) - cpu
    batch = str(json.loads(answer.partition(b"\r\n\r\n")[2])["batch_id"])
    return Sent(len(request), spent, time.perf_counter() - began, batch)


def keep_sending(system: Rig, request: bytes, stop: threading.Event) -> None:
    """Send a batch again and again; the last is cut off when `stop` is set."""
    while not stop.is_set():
        _send(system, request, stop)


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("batch_upload", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
