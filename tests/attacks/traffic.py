"""Requests that cost the front CPU without being served, and connections that are held open."""

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
from tests.attacks import bounds, flood, other_tenant, target as targets
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
# Content lengths of five accounts, each within its share: together `api.bodies_bytes_max`.
_DECLARED: Final = (*((5_000_000,) * 3 for _ in range(4)), (5_000_000, 2_108_864))
_KIB_PER_MIB: Final = 1024


async def refused(checkout: Path) -> list[Figure]:
    """Submit with a free account as fast as the front answers, far beyond its ten a minute."""
    return await _flood(checkout, "submissions beyond the limit, 100 kB each", {})


async def repeated(checkout: Path) -> list[Figure]:
    """Repeat one submission with its Idempotency-Key as fast as the front answers."""
    fields = {"idempotency-key": secrets.token_hex(8)}
    return await _flood(checkout, "repeated submissions, 100 kB each", fields)


async def _flood(checkout: Path, name: str, fields: dict[str, str]) -> list[Figure]:
    async with targets.running(checkout, Plan()) as target:
        key = await target.key("attacker", "free")
        request = flood.post("/api/v1/chat", key, {"message": f"{_TEXT} [tokens=2]"}, **fields)
        (flooded, cpu), tenant_report = await other_tenant.run_beside(
            target, _flood_and_measure(target, request)
        )
    each_ms = 1000 * cpu / max(1, flooded.total)
    return [
        Figure(
            name,
            f"{flooded.total / flooded.seconds:,.0f}/s, {each_ms:.2f} ms CPU each",
            flooded.text(),
            f"<= {bounds.REFUSED_CPU_MS:g} ms",
            each_ms <= bounds.REFUSED_CPU_MS,
        ),
        tenant_report.figure(),
    ]


async def _flood_and_measure(target: Target, request: bytes) -> tuple[Flood, float]:
    """Flood the front; return the results, and the CPU seconds of the front."""
    before = target.api.cpu_seconds()
    flooded = await flood.flood(target, request, seconds=_FLOOD_SECONDS)
    return flooded, target.api.cpu_seconds() - before


async def revoked(checkout: Path) -> list[Figure]:
    """Hold streams open with a key that is then revoked."""
    async with targets.running(checkout, Plan()) as target:
        key = await target.key("attacker", "pro")
        (open_count, seconds), tenant_report = await other_tenant.run_beside(
            target, _hold_streams(target, key)
        )
    took = (
        f"{seconds:.1f} s" if open_count == 0 else f"{open_count} still open after {seconds:.0f} s"
    )
    return [
        Figure(
            f"{_STREAMS} streams of a key that is revoked",
            f"ended: {took}",
            "",
            f"<= {bounds.REVOKED_SECONDS:g} s",
            open_count == 0 and seconds <= bounds.REVOKED_SECONDS,
        ),
        tenant_report.figure(),
    ]


async def _hold_streams(target: Target, key: Key) -> tuple[int, float]:
    """Return how many streams are still open, and the seconds since the key was revoked."""
    body = {"message": "write [tokens=400 gap=0.1]", "stream": True}
    request = flood.post("/v1/ai/chat", key, body)
    reading = [asyncio.create_task(_read_stream(target, request)) for _ in range(_STREAMS)]
    await SystemClock().sleep(1.0)
    assert not any(task.done() for task in reading), [task.result() for task in reading]
    done = await target.pollux("keys", "revoke", key.id)
    assert done.returncode == 0, done.stderr
    began = time.monotonic()
    _, unfinished = await asyncio.wait(reading, timeout=_STREAM_SECONDS)
    took = time.monotonic() - began
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return len(unfinished), took


async def _read_stream(target: Target, request: bytes) -> bytes:
    """Read a stream to its end; return the last piece."""
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
    """Open connections without a key that send half a request head, and nothing more."""
    async with targets.running(checkout, Plan()) as target:
        with flood.growth(target.api) as grown:
            (open_count, seconds), tenant_report = await other_tenant.run_beside(
                target, asyncio.to_thread(_open_connections, target.port)
            )
            kib = grown() * _KIB_PER_MIB / _CONNECTIONS
    took = (
        f"closed after {seconds:.1f} s"
        if open_count == 0
        else f"{open_count} open after {seconds:.0f} s"
    )
    return [
        Figure(
            f"{_CONNECTIONS:,} connections with half a head",
            f"{took}, {kib:.1f} KiB each",
            "",
            f"<= {bounds.IDLE_SECONDS:g} s, {bounds.IDLE_KIB:g} KiB",
            open_count == 0 and seconds <= bounds.IDLE_SECONDS and kib <= bounds.IDLE_KIB,
        ),
        tenant_report.figure(),
    ]


def _open_connections(port: int) -> tuple[int, float]:
    """Return how many are open at the end, and the seconds since the last was opened."""
    with selectors.DefaultSelector() as selector, _half_requests(port) as sockets:
        for socket_ in sockets:
            selector.register(socket_, selectors.EVENT_READ, socket_)
        began, left = time.monotonic(), len(sockets)
        while left and time.monotonic() - began < _IDLE_SECONDS:
            for found, _ in selector.select(0.5):
                if _is_closed(found.data):
                    selector.unregister(found.fileobj)
                    left -= 1
        return left, time.monotonic() - began


@contextmanager
def _half_requests(port: int) -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    try:
        for _ in range(_CONNECTIONS):
            socket_ = socket.create_connection(("127.0.0.1", port))
            sockets.append(socket_)
            socket_.sendall(b"POST /v1/ai/chat HTTP/1.1\r\nhost: attacked\r\nx-half: ")
        yield sockets
    finally:
        for socket_ in sockets:
            socket_.close()


def _is_closed(socket_: socket.socket) -> bool:
    """Return whether the other side has closed; what it sent before is read."""
    try:
        return not socket_.recv(65_536)
    except OSError:
        return True


async def slow_bodies(checkout: Path) -> list[Figure]:
    """Never send the last byte of large bodies, with several free accounts at once."""
    async with targets.running(checkout, Plan()) as target:
        keys = [await target.key(f"attacker-{n}", "free") for n in range(_ACCOUNTS)]
        with flood.growth(target.api) as grown:
            taken, tenant_report = await other_tenant.run_beside(target, _hold_bodies(target, keys))
            mib = grown()
    sent = _ACCOUNTS * _BODIES_EACH
    return [
        Figure(
            f"{sent} bodies of {_BODY_BYTES / MIB:.1f} MiB that never end, {_ACCOUNTS} accounts",
            f"front grows by {mib:.0f} MiB",
            f"{taken} accepted, {sent - taken} refused",
            f"<= {bounds.BODIES_MIB:g} MiB",
            mib <= bounds.BODIES_MIB,
        ),
        tenant_report.figure(),
    ]


async def _hold_bodies(target: Target, keys: list[Key]) -> int:
    """Return how many bodies the front was still waiting for at the end."""
    body = json.dumps({"message": "x" * _BODY_BYTES}).encode()
    async with AsyncExitStack() as stack:
        submissions = [
            await _send_all_but_last_byte(target, flood.post("/api/v1/chat", key, body), stack)
            for _ in range(_BODIES_EACH)
            for key in keys
        ]
        await SystemClock().sleep(_BODIES_SECONDS)
        return sum(not task.done() for task in submissions)


async def declared_bodies(checkout: Path) -> list[Figure]:
    """Declare large bodies with a few free accounts, and send only their first byte."""
    async with targets.running(checkout, Plan()) as target:
        keys = [await target.key(f"attacker-{n}", "free") for n in range(len(_DECLARED))]
        taken, tenant_report = await other_tenant.run_beside(target, _declare(target, keys))
    return [
        Figure(
            f"large bodies declared by {len(keys)} accounts, and not sent",
            f"{taken} of {sum(map(len, _DECLARED))} accepted",
        ),
        tenant_report.figure(),
    ]


async def _declare(target: Target, keys: list[Key]) -> int:
    """Return how many bodies the front was still waiting for at the end."""
    async with AsyncExitStack() as stack:
        unfinished = [
            await _send_all_but_last_byte(target, _head(key, size), stack)
            for key, sizes in zip(keys, _DECLARED, strict=True)
            for size in sizes
        ]
        await SystemClock().sleep(_BODIES_SECONDS)
        return sum(not task.done() for task in unfinished)


def _head(key: Key, size: int) -> bytes:
    """Return the head of a request with a body of `size` bytes, and its first byte."""
    head, _, _ = flood.post("/api/v1/chat", key, b"", content_length=str(size)).partition(
        b"\r\n\r\n"
    )
    return head + b"\r\n\r\n{"


async def _send_all_but_last_byte(
    target: Target, request: bytes, stack: AsyncExitStack
) -> "asyncio.Task[bytes]":
    """Send a request without its last byte; return a task that ends once it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    stack.callback(writer.close)
    writer.write(request[:-1])
    task = asyncio.create_task(_read_first_bytes(reader))
    stack.callback(task.cancel)
    return task


async def _read_first_bytes(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(16)
    except OSError:
        return b""
