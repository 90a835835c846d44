"""Cancel and deletion of a batch of a million items: how soon they are answered, and done.

Some items run in a worker whose upstream does not answer, a window of them waits in the queue, and
the rest is packed. Measured are the answer to the cancel, the end of the last item, the answer to
the deletion, the end of the last key, and the longest call of Redis meanwhile.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.wire.batch import CHUNK_ITEMS_MAX
from tests.bench import bounds, figures, system_rig
from tests.bench.figures import Figure
from tests.bench.system_rig import Rig
from tests.support import stored_batches
from tests.support.api_client import ApiClient, body
from tests.support.scripted_provider import ScriptedAnswer
from tests.support.waiting import until

ITEMS: Final = 1_000_000
_HOLD: Final = 30_000
_GIVE_UP_SECONDS: Final = 300.0


class _Took(NamedTuple):
    """Seconds until the answer, and until all was done; the longest call of Redis in ms."""

    answer: float
    done: float
    call_ms: float
    call: str


async def measure(count: int = ITEMS, workers: int = 1) -> list[Figure]:
    """Cancel a batch, then delete it."""
    async with system_rig.running(workers=workers) as system, system.customer() as customer:
        gate = asyncio.Event()
        system.provider.answer = lambda _: ScriptedAnswer(gate=gate)
        batch = await _running(system, count)
        path = f"/api/v1/batches/{batch}"

        async def has_ended() -> bool:
            return bool(body(await customer.get(path))["state"] == "cancelled")

        async def is_gone() -> bool:
            return not await _names(system, batch)

        cancelled = await _took(system, customer, ("POST", f"{path}/cancel"), has_ended)
        gate.set()
        deleted = await _took(system, customer, ("DELETE", path), is_gone)
    return [
        *_figures(f"cancel of {count:,} items", cancelled, "last item's end"),
        *_figures(f"deletion of {count:,} items", deleted, "last key's end"),
    ]


async def _names(system: Rig, batch: str) -> list[bytes]:
    """Return some keys of a batch, as long as there are any."""
    cursor: Any = b"0"
    while True:
        scan = ("SCAN", cursor, "MATCH", f"*{batch}*", "COUNT", 10_000)
        cursor, names = await system.redis.call(*scan)
        if names or cursor == b"0":
            return list(names)


async def _running(system: Rig, count: int) -> str:
    """Store a batch, a window of which is in the queue and partly runs."""
    chunk = stored_batches.items(CHUNK_ITEMS_MAX, hold=_HOLD)
    chunks = [chunk[: count - at] for at in range(0, count, CHUNK_ITEMS_MAX)]
    batch = await stored_batches.store(system.redis, system.root, chunks, account=system.account.id)
    feeder = BatchFeeder(system.redis, system.settings, SystemClock())
    await feeder.feed(system.root, system.account.id)

    async def runs() -> bool:
        return bool(system.provider.requests or not system.workers)

    await until(runs, _GIVE_UP_SECONDS, what="an item that runs")
    return batch


async def _took(
    system: Rig,
    customer: ApiClient,
    request: tuple[str, str],
    is_done: Callable[[], Awaitable[bool]],
) -> _Took:
    with system.server.raw_client() as redis:
        redis("CONFIG", "SET", "slowlog-log-slower-than", 500)
        redis("CONFIG", "SET", "slowlog-max-len", 100_000)
        redis("SLOWLOG", "RESET")
        began = time.perf_counter()
        body(await customer.request(*request))
        answered = time.perf_counter() - began
        await until(is_done, _GIVE_UP_SECONDS, what=f"the end of {request}")
        done = time.perf_counter() - began
        # What looks for the last key is no part of it.
        calls = [
            (each[2] / 1000, " ".join(bytes(word).decode() for word in each[3][:2]))
            for each in redis("SLOWLOG", "GET", -1)
            if bytes(each[3][0]) != b"SCAN"
        ]
        return _Took(answered, done, *max(calls, default=(0.0, "none")))


def _figures(name: str, took: _Took, what: str) -> list[Figure]:
    return [
        Figure(f"{name}: the answer", f"{took.answer * 1000:.0f} ms"),
        Figure(f"  {what}", f"{took.done:.2f} s"),
        Figure(
            "  longest call of Redis",
            f"{took.call_ms:.2f} ms",
            took.call,
            f"<= {bounds.BATCH_CALL_MS} ms",
            took.call_ms <= bounds.BATCH_CALL_MS,
        ),
    ]


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("batch_stop", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
