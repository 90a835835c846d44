"""What pages of long conversations cost everybody else.

Several clients of one account read a page of 100 messages at once, each as long as a message may
be. Measured are the front's memory, the largest reply buffer in Redis, its longest command, and the
time of another tenant's polls meanwhile. The conversation is written as `accept` and `settle` leave
it, because no model here writes that much.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shared.clock import SystemClock
from shared.redis import keys
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES
from shared.wire.message import AssistantMessage, UserMessage, encode_assistant
from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support.api_client import ApiClient

PAGES: Final = 8
TURNS: Final = 50
CHARACTERS: Final = 200_000
# One byte each; four bytes each; one byte that JSON escapes as six.
TEXTS: Final = {"one byte": "x", "four bytes": "\U0001f30d", "escaped": "\x01"}
_PATHS: Final = {
    "kolbo": "/api/v1/chat/conversations/{}/messages?limit=100",
    "kombify": "/v1/ai/sessions/{}",
}
_BUFFER_BYTES: Final = 1 << 20
_POLL_PAUSE_SECONDS: Final = 0.003
_QUIET_SECONDS: Final = 0.5
_MIB: Final = 2**20


async def measure(
    pages: int = PAGES,
    characters: int = CHARACTERS,
    dialects: tuple[str, ...] = tuple(_PATHS),
    texts: tuple[str, ...] = tuple(TEXTS),
) -> list[Figure]:
    """Read long pages in both dialects, of each kind of text."""
    found = []
    for dialect in dialects:
        for text in texts:
            async with system_rig.running() as system:
                found += await _read_pages(system, dialect, text, pages, characters)
    return found


async def _read_pages(
    system: Rig, dialect: str, text: str, pages: int, characters: int
) -> list[Figure]:
    session = await _conversation(system, TEXTS[text] * characters)
    path, poll_request = _PATHS[dialect].format(session), await _other_tenants_request(system)
    quiet = await _while_polling(
        system, poll_request, asyncio.to_thread(threading.Event().wait, _QUIET_SECONDS)
    )
    process = Path(f"/proc/{system.api.pid}")
    (process / "clear_refs").write_text("5")  # resets the peak of its memory
    resident = _memory_mib(process, "VmRSS")
    with system.server.raw_client() as redis:
        redis("CONFIG", "SET", "slowlog-log-slower-than", 0)
        redis("CONFIG", "SET", "slowlog-max-len", 100_000)
        redis("SLOWLOG", "RESET")
        reading = [asyncio.to_thread(_read, system, path) for _ in range(pages)]
        largest, busy = await asyncio.gather(
            _largest_buffer_mib(system, stop := threading.Event()),
            _while_polling(system, poll_request, asyncio.gather(*reading), stop),
        )
        longest_ms = max(entry[2] for entry in redis("SLOWLOG", "GET", -1)) / 1000
    grown = _memory_mib(process, "VmHWM") - resident
    late = figures.quantile(busy, 0.99) * 1000
    name, least = f"{dialect}, {text}, {pages} pages", figures.quantile(quiet, 0.99) * 1000
    return [
        _bound(f"{name}: front's memory grew by", grown, "MiB", bounds.PAGE_MIB * pages),
        _bound("  largest buffer of replies in Redis", largest, "MiB", bounds.PAGE_REPLY_MIB),
        _bound("  longest command of Redis", longest_ms, "ms", bounds.PAGE_COMMAND_MS),
        Figure("  another tenant's poll, p99", f"{late:.1f} ms", f"without {least:.1f} ms"),
    ]


def _bound(name: str, found: float, unit: str, size_max: float) -> Figure:
    return Figure(name, f"{found:.2f} {unit}", "", f"<= {size_max:g} {unit}", found <= size_max)


async def _conversation(system: Rig, text: str) -> str:
    """Write a conversation whose messages are all this text; return its session."""
    async with system.customer() as customer:
        session: str = (await customer.submit("hi"))["session_id"]
    size = 0
    for number in range(1, TURNS + 1):
        user = UserMessage(id=f"u{number}", generation=f"g{number}", content=text, created=1)
        answer = AssistantMessage(status="completed", content=text, created=2)
        records = (encode_assistant(user), encode_assistant(answer))
        chunk = keys.TURNS(system.root, "bench", session, number // keys.TURNS_PER_CHUNK)
        fields = (f"{number}:u", records[0], f"{number}:a", records[1])
        await system.redis.call("HSET", chunk, *fields)
        size += sum(map(len, records))
    where = keys.SESSION(system.root, "bench", session)
    await system.redis.call("HSET", where, "turns", TURNS, "bytes", size)
    return session


async def _other_tenants_request(system: Rig) -> bytes:
    """Submit a message of another account; return the request that polls it."""
    accounts = Accounts(system.redis, system.settings.redis, b"", SystemClock())
    account = await accounts.create("other", "enterprise")
    await accounts.grant(account, 10**12)
    key = (await accounts.create_key(account, DEFAULT_SCOPES)).key
    async with ApiClient(base_url=system.url, headers={"x-api-key": key}) as customer:
        return _request((await customer.submit("hi"))["poll_url"], key, "keep-alive")


async def _while_polling(
    system: Rig, poll_request: bytes, other: Awaitable[object], stop: threading.Event | None = None
) -> list[float]:
    """Poll repeatedly until `other` is done; return the seconds of each poll."""
    done = stop or threading.Event()
    polling = asyncio.create_task(asyncio.to_thread(_poll_once, system, poll_request, done))
    try:
        await other
    finally:
        done.set()
    return await polling


def _poll_once(system: Rig, request: bytes, done: threading.Event) -> list[float]:
    took = []
    with _connected(system) as sock:
        while not done.is_set():
            began = time.perf_counter()
            sock.sendall(request)
            head, _, body = sock.recv(_BUFFER_BYTES).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            while not body.endswith(b"}"):
                body += sock.recv(_BUFFER_BYTES)
            took.append(time.perf_counter() - began)
            done.wait(_POLL_PAUSE_SECONDS)
    return took


def _read(system: Rig, path: str) -> None:
    """Read a whole page as fast as it comes."""
    buffer, last = bytearray(_BUFFER_BYTES), b""
    with _connected(system) as sock:
        sock.sendall(_request(path, system.key, "close"))
        while size := sock.recv_into(buffer):
            last = (last + buffer[:size])[-8:]
    assert last.rstrip(b"0\r\n").endswith(b"}"), last


def _connected(system: Rig) -> socket.socket:
    where = urlsplit(system.url)
    return socket.create_connection((where.hostname, where.port))


def _request(path: str, key: str, connection: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\nconnection: {connection}"
    return f"{head}\r\n\r\n".encode()


async def _largest_buffer_mib(system: Rig, done: threading.Event) -> float:
    """Return the largest reply buffer of Redis until `done` is set."""

    def watch() -> float:
        size_max = 0
        with system.server.raw_client() as redis:
            while not done.wait(_POLL_PAUSE_SECONDS):
                size_max = max(
                    size_max, redis("INFO", "clients")["client_recent_max_output_buffer"]
                )
        return size_max / _MIB

    return await asyncio.to_thread(watch)


def _memory_mib(process: Path, field: str) -> float:
    lines = (process / "status").read_text().splitlines()
    return next(int(sock.split()[1]) / 1024 for sock in lines if sock.startswith(field))


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("pages", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
