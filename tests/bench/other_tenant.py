"""How much longer another tenant's messages take to be accepted while a front does something.

Measured in interleaved pairs, with and without it.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from shared.clock import SystemClock
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES
from tests.bench import figures
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig

_BUFFER_BYTES: Final = 1 << 18
PAIR_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.01


async def beside(
    system: Rig, name: str, keep_on: Callable[[threading.Event], None], pairs: int, bound: float
) -> Figure:
    """Time another tenant's messages with and without what `keep_on` does until it is stopped."""
    submit = await _request(system)
    alone: list[float] = []
    busy: list[float] = []
    ratios = []
    for _ in range(pairs):
        alone = await asyncio.to_thread(_submit, system, submit)
        stop = threading.Event()
        doing = asyncio.create_task(asyncio.to_thread(keep_on, stop))
        busy = await asyncio.to_thread(_submit, system, submit)
        stop.set()
        await doing
        ratios.append(figures.quantile(busy, 0.99) / figures.quantile(alone, 0.99))
    ratio = figures.median(ratios)
    times = [1000 * figures.quantile(each, 0.99) for each in (busy, alone)]
    return Figure(
        name,
        f"{ratio:.2f} times",
        f"e.g. {times[0]:.2f} ms, {times[1]:.2f} ms without",
        f"<= {bound}",
        ratio <= bound,
    )


def connected(system: Rig) -> socket.socket:
    """Return a connection to the front."""
    where = urlsplit(system.url)
    return socket.create_connection((where.hostname, where.port))


def _submit(system: Rig, request: bytes) -> list[float]:
    """Send a message now and then; return how long each took to be accepted."""
    took, ends = [], time.perf_counter() + PAIR_SECONDS
    with connected(system) as sock:
        while (began := time.perf_counter()) < ends:
            sock.sendall(request)
            answer = sock.recv(_BUFFER_BYTES)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            took.append(time.perf_counter() - began)
            threading.Event().wait(_PAUSE_SECONDS)
    return took


async def _request(system: Rig) -> bytes:
    accounts = Accounts(system.redis, system.settings.redis, b"", SystemClock())
    account = await accounts.create("other", "enterprise")
    await accounts.grant(account, 10**12)
    key = (await accounts.create_key(account, DEFAULT_SCOPES)).key
    body = b'{"message":"Hello"}'
    head = f"POST /api/v1/chat HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
