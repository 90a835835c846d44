"""Requests that cost the front without being answered well, and lines that are held open."""

import asyncio
import json
import secrets
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

from shared.clock import SystemClock
from tests.attacks import aims, flood, target as targets, tenant
from tests.attacks.flood import Flood
from tests.attacks.target import MIB, Key, Plan, Target
from tests.bench.figures import Figure

_FLOOD_SECONDS: Final = 6.0
_TEXT: Final = "x" * 100_000
_STREAMS: Final = 8
_STREAM_SECONDS: Final = 12.0
_CONNECTIONS: Final = 4_000
_IDLE_SECONDS: Final = 16.0
_ACCOUNTS: Final = 6
_BODIES_EACH: Final = 10
_BODY_BYTES: Final = 4_500_000
_BODIES_SECONDS: Final = 6.0
# Declared by five accounts, each within its share: together exactly `api.bodies_bytes_max`.
_DECLARED: Final = (*((5_000_000,) * 3 for _ in range(4)), (5_000_000, 2_108_864))
_KIB_PER_MIB: Final = 1024


async def refused(checkout: Path) -> list[Figure]:
    """Submit from a free account as fast as the front answers, far beyond its ten a minute."""
    return await _flood(checkout, "submissions beyond the limit, 100 kB each", {})


async def repeated(checkout: Path) -> list[Figure]:
    """Repeat one submission with its Idempotency-Key as fast as the front answers."""
    fields = {"idempotency-key": secrets.token_hex(8)}
    return await _flood(checkout, "repeated submissions, 100 kB each", fields)


async def _flood(checkout: Path, name: str, fields: dict[str, str]) -> list[Figure]:
    async with targets.running(checkout, Plan()) as target:
        key = await target.key("stranger", "free")
        request = flood.post("/api/v1/chat", key, {"message": f"{_TEXT} [tokens=2]"}, **fields)
        (met, cpu), seen = await tenant.beside(target, _cost(target, request))
    each_ms = 1000 * cpu / max(1, met.total)
    return [
        Figure(
            name,
            f"{met.total / met.seconds:,.0f}/s, {each_ms:.2f} ms CPU each",
            met.text(),
            f"<= {aims.REFUSED_CPU_MS:g} ms",
            each_ms <= aims.REFUSED_CPU_MS,
        ),
        seen.figure(),
    ]


async def _cost(target: Target, request: bytes) -> tuple[Flood, float]:
    """Flood the front; return what was met, and the CPU seconds that it took there."""
    before = target.api.cpu_seconds()
    met = await flood.flood(target, request, seconds=_FLOOD_SECONDS)
    return met, target.api.cpu_seconds() - before


async def revoked(checkout: Path) -> list[Figure]:
    """Hold streams open with a key that is then revoked."""
    async with targets.running(checkout, Plan()) as target:
        key = await target.key("stranger", "pro")
        (open_, seconds), seen = await tenant.beside(target, _hold_streams(target, key))
    took = f"{seconds:.1f} s" if open_ == 0 else f"{open_} still open after {seconds:.0f} s"
    return [
        Figure(
            f"{_STREAMS} streams of a key that is revoked",
            f"ended: {took}",
            "",
            f"<= {aims.REVOKED_SECONDS:g} s",
            open_ == 0 and seconds <= aims.REVOKED_SECONDS,
        ),
        seen.figure(),
    ]


async def _hold_streams(target: Target, key: Key) -> tuple[int, float]:
    """Return how many streams are still open, and how long after the key's end that was."""
    body = {"message": "tell [tokens=400 gap=0.1]", "stream": True}
    request = flood.post("/v1/ai/chat", key, body)
    reading = [asyncio.create_task(_read_stream(target, request)) for _ in range(_STREAMS)]
    await SystemClock().sleep(1.0)
    assert not any(task.done() for task in reading), [task.result() for task in reading]
    done = await target.pollux("keys", "revoke", key.id)
    assert done.returncode == 0, done.stderr
    began = time.monotonic()
    _, waiting = await asyncio.wait(reading, timeout=_STREAM_SECONDS)
    took = time.monotonic() - began
    for task in waiting:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return len(waiting), took


async def _read_stream(target: Target, request: bytes) -> bytes:
    """Read a stream to its end; return the last of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(request)
        last = b""
        while piece := await reader.read(65_536):
            last = piece
            if piece.endswith(b"0\r\n\r\n"):
                break
        return last
    finally:
        writer.close()


async def idle_connections(checkout: Path) -> list[Figure]:
    """Open connections without a key that send half a head, and nothing more."""
    async with targets.running(checkout, Plan()) as target:
        with flood.growth(target.api) as grown:
            (open_, seconds), seen = await tenant.beside(
                target, asyncio.to_thread(_open_connections, target.port)
            )
            kib = grown() * _KIB_PER_MIB / _CONNECTIONS
    took = f"closed after {seconds:.1f} s" if open_ == 0 else f"{open_} open after {seconds:.0f} s"
    return [
        Figure(
            f"{_CONNECTIONS:,} connections with half a head",
            f"{took}, {kib:.1f} KiB each",
            "",
            f"<= {aims.IDLE_SECONDS:g} s, {aims.IDLE_KIB:g} KiB",
            open_ == 0 and seconds <= aims.IDLE_SECONDS and kib <= aims.IDLE_KIB,
        ),
        seen.figure(),
    ]


def _open_connections(port: int) -> tuple[int, float]:
    """Return how many are open at the end, and how long after the last was opened that is."""
    with selectors.DefaultSelector() as selector, _lines(port) as lines:
        for line in lines:
            selector.register(line, selectors.EVENT_READ, line)
        began, left = time.monotonic(), len(lines)
        while left and time.monotonic() - began < _IDLE_SECONDS:
            for found, _ in selector.select(0.5):
                if _is_closed(found.data):
                    selector.unregister(found.fileobj)
                    left -= 1
        return left, time.monotonic() - began


@contextmanager
def _lines(port: int) -> Iterator[list[socket.socket]]:
    lines: list[socket.socket] = []
    try:
        for _ in range(_CONNECTIONS):
            line = socket.create_connection(("127.0.0.1", port))
            lines.append(line)
            line.sendall(b"POST /v1/ai/chat HTTP/1.1\r\nhost: attacked\r\nx-half: ")
        yield lines
    finally:
        for line in lines:
            line.close()


def _is_closed(line: socket.socket) -> bool:
    """Tell whether the other side has closed; what it says before is read."""
    try:
        return not line.recv(65_536)
    except OSError:
        return True


async def slow_bodies(checkout: Path) -> list[Figure]:
    """Hold back the end of large bodies, from several free accounts at once."""
    async with targets.running(checkout, Plan()) as target:
        keys = [await target.key(f"stranger-{n}", "free") for n in range(_ACCOUNTS)]
        with flood.growth(target.api) as grown:
            taken, seen = await tenant.beside(target, _hold_bodies(target, keys))
            mib = grown()
    sent = _ACCOUNTS * _BODIES_EACH
    return [
        Figure(
            f"{sent} bodies of {_BODY_BYTES / MIB:.1f} MiB that never end, {_ACCOUNTS} accounts",
            f"front grows by {mib:.0f} MiB",
            f"{taken} taken, {sent - taken} refused",
            f"<= {aims.BODIES_MIB:g} MiB",
            mib <= aims.BODIES_MIB,
        ),
        seen.figure(),
    ]


async def _hold_bodies(target: Target, keys: list[Key]) -> int:
    """Return how many bodies were being taken at the end."""
    body = json.dumps({"message": "x" * _BODY_BYTES}).encode()
    async with AsyncExitStack() as stack:
        refused_ = [
            await _send_most(target, flood.post("/api/v1/chat", key, body), stack)
            for _ in range(_BODIES_EACH)
            for key in keys
        ]
        await SystemClock().sleep(_BODIES_SECONDS)
        return sum(not task.done() for task in refused_)


async def declared_bodies(checkout: Path) -> list[Figure]:
    """Declare large bodies from a few free accounts, and send not a byte of them."""
    async with targets.running(checkout, Plan()) as target:
        keys = [await target.key(f"stranger-{n}", "free") for n in range(len(_DECLARED))]
        taken, seen = await tenant.beside(target, _declare(target, keys))
    return [
        Figure(
            f"large bodies declared by {len(keys)} accounts, and not sent",
            f"{taken} of {sum(map(len, _DECLARED))} taken",
        ),
        seen.figure(),
    ]


async def _declare(target: Target, keys: list[Key]) -> int:
    """Return how many bodies were still waited for at the end."""
    async with AsyncExitStack() as stack:
        waiting = [
            await _send_most(target, _head(key, size), stack)
            for key, sizes in zip(keys, _DECLARED, strict=True)
            for size in sizes
        ]
        await SystemClock().sleep(_BODIES_SECONDS)
        return sum(not task.done() for task in waiting)


def _head(key: Key, size: int) -> bytes:
    """Return the head of a request with a body of so many bytes, and the first of them."""
    head, _, _ = flood.post("/api/v1/chat", key, b"", content_length=str(size)).partition(
        b"\r\n\r\n"
    )
    return head + b"\r\n\r\n{"


async def _send_most(
    target: Target, request: bytes, stack: AsyncExitStack
) -> "asyncio.Task[bytes]":
    """Send a request but for its last byte; return a task that ends once it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    stack.callback(writer.close)
    writer.write(request[:-1])
    task = asyncio.create_task(_first_word(reader))
    stack.callback(task.cancel)
    return task


async def _first_word(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(16)
    except OSError:
        return b""
