"""Raw HTTP requests of an attacker, floods of them, and the memory of the attacked processes."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.attacks.target import MIB, Key, Target
from tests.support.processes import Process

CONNECTIONS: Final = 16
_KIB_PER_MIB: Final = 1024


class Flood(NamedTuple):
    """The results of a flood: responses by status, and the seconds it took."""

    answers: Counter[int]
    seconds: float

    @property
    def total(self) -> int:
        """The number of responses."""
        return self.answers.total()

    def text(self) -> str:
        """Return the statuses with their counts."""
        return ", ".join(f"{count:,} x {status}" for status, count in sorted(self.answers.items()))


def post(path: str, key: Key, body: object, **headers: str) -> bytes:
    """Return a whole request."""
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    head = {
        "host": "attacked",
        "x-api-key": key.key,
        "content-type": "application/json",
        "content-length": str(len(content)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connections = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"POST {path} HTTP/1.1\r\n{connections}\r\n".encode() + content


async def flood(
    target: Target,
    request: bytes,
    *,
    seconds: float,
    connections: int = CONNECTIONS,
    is_over: Callable[[Counter[int]], bool] = lambda _: False,
) -> Flood:
    """Repeat a request on several connections, each time as soon as it is answered."""
    answers: Counter[int] = Counter()
    began = time.monotonic()

    async def one() -> None:
        while not is_over(answers) and time.monotonic() - began < seconds:
            try:
                await _send_until(target, request, began + seconds, answers, is_over)
            except (OSError, asyncio.IncompleteReadError):
                # Closed, as it may be after a refusal: open another connection.
                answers[0] += 1

    await asyncio.gather(*(one() for _ in range(connections)))
    return Flood(answers, time.monotonic() - began)


async def _send_until(
    target: Target,
    request: bytes,
    ends: float,
    answers: Counter[int],
    is_over: Callable[[Counter[int]], bool],
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        is_kept = True
        while is_kept and time.monotonic() < ends and not is_over(answers):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
            answers[int(head.split(b" ", 2)[1])] += 1
            is_kept = b"connection: close" not in head
    finally:
        writer.close()


def resident_mib(process: Process) -> float:
    """Return the memory that a process has now."""
    return _memory_mib(process, "VmRSS")


@contextmanager
def growth(process: Process) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the MiB by which a process has grown at most since."""
    (Path(f"/proc/{process.pid}") / "clear_refs").write_text("5")  # resets its peak (VmHWM)
    before = resident_mib(process)
    yield lambda: max(0.0, _memory_mib(process, "VmHWM") - before)


def _memory_mib(process: Process, field: str) -> float:
    connections = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(
        int(line.split()[1]) / _KIB_PER_MIB for line in connections if line.startswith(field)
    )


def sent_by_redis_mib(target: Target) -> float:
    """Return the MiB that the server has sent to all its clients so far."""
    with target.server.raw_client() as raw_client:
        return float(raw_client("INFO", "stats")["total_net_output_bytes"]) / MIB
