"""How fast a batch runs through the engine, and what its items leave in Redis.

Two workers, whose provider answers at once inside the worker, in turns with the engine's own rate:
as many plain generations that wait already. A batch is measured from the workers' start until
its last chunk is packed, so feeding, counting and packing are included. Then the bytes that an item
takes while it waits, beyond its compressed text, and when it has ended, beyond its answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.redis import keys
from tests.bench import bounds, contestants, figures, queue_rig
from tests.bench.figures import Figure, median
from tests.bench.queue_rig import QueueRig
from tests.support import stored_batches
from tests.support.stored_batches import in_chunks, items

RUNS: Final = 3
ITEMS: Final = 20_000
CONCURRENCY: Final = 256
_WORKERS: Final = 2
_CHUNK: Final = 128
_HOLD: Final = 30_000
_GIVE_UP_SECONDS: Final = 300.0
_PAUSE_SECONDS: Final = 0.02


Check = Callable[[], Awaitable[bool]]


class Run(NamedTuple):
    """A rate, the CPU seconds of an item in the workers, and bytes of an item in Redis."""

    per_second: float
    cpu_seconds: float
    waiting_bytes: float = 0.0
    ended_bytes: float = 0.0


async def measure(count: int = ITEMS, runs: int = RUNS) -> list[Figure]:
    """Measure a batch and plain generations in turns."""

    async def pair() -> tuple[Run, Run]:
        return await _batch(count), await _plain(count)

    pairs = await figures.rounds(runs, pair, lambda each: [_ratio(each) >= bounds.BATCH_OF_ENGINE])
    ratio = median(map(_ratio, pairs))
    batch, plain = ([each[index] for each in pairs] for index in (0, 1))
    return [
        Figure(
            f"items a second of a batch of {count:,}, two workers",
            f"{ratio:.2f} of the engine's rate",
            f"{median(run.per_second for run in batch):,.0f} beside "
            f"{median(run.per_second for run in plain):,.0f}",
            f">= {bounds.BATCH_OF_ENGINE}",
            ratio >= bounds.BATCH_OF_ENGINE,
        ),
        Figure(
            "CPU of an item in the workers",
            f"{median(run.cpu_seconds for run in batch) * 1e6:.0f} us",
            f"of a plain generation {median(run.cpu_seconds for run in plain) * 1e6:.0f} us",
        ),
        _bytes("bytes of a waiting item beyond its text", [run.waiting_bytes for run in batch]),
        _bytes("bytes of an ended item beyond its answer", [run.ended_bytes for run in batch]),
    ]


def _ratio(pair: tuple[Run, Run]) -> float:
    return pair[0].per_second / pair[1].per_second


def _bytes(what: str, found: list[float]) -> Figure:
    most = median(found)
    bound = bounds.BATCH_ITEM_BYTES
    return Figure(what, f"{most:.0f}", "both compressed", f"<= {bound}", most <= bound)


async def _plain(count: int) -> Run:
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig(concurrency=CONCURRENCY))
        await rig.fill(count)
        used, _ = await _work(stack, rig, _is_drained(rig))
        done = rig.done()
        return Run(done.per_second, used / count)


def _is_drained(rig: QueueRig) -> Check:
    async def is_drained() -> bool:
        return not await rig.unfinished()

    return is_drained


async def _batch(count: int) -> Run:
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(queue_rig.running_rig(concurrency=CONCURRENCY))
        root, account = rig.queue.root, rig.account
        empty = _allocated(rig)
        chunks = in_chunks(items(count, hold=_HOLD), _CHUNK)
        batch = await stored_batches.store(rig.redis, root, chunks, account=account)
        waiting = _allocated(rig) - empty - await _packed(rig, batch, keys.BATCH_ITEMS, len(chunks))
        await BatchFeeder(rig.redis, rig.settings, SystemClock()).feed(root, account)

        async def is_packed() -> bool:
            state, last, left = await asyncio.gather(
                rig.redis.call("HGET", keys.BATCH(root, account, batch), "state"),
                rig.redis.call("EXISTS", keys.BATCH_CHUNKS_TO_PACK(root)),
                rig.unfinished(),
            )
            return state == b"completed" and not last and not left

        used, seconds = await _work(stack, rig, is_packed)
        ended = await _packed(rig, batch, keys.BATCH_RESULTS, len(chunks))
        completed = await rig.redis.call("HGET", keys.BATCH(root, account, batch), "completed")
        assert int(completed) == count
        return Run(
            count / seconds,
            used / count,
            waiting / count,
            (_allocated(rig) - empty - ended) / count,
        )


async def _packed(rig: QueueRig, batch: str, family: keys.Key, chunks: int) -> int:
    names = [family(rig.queue.root, rig.account, batch, chunk) for chunk in range(chunks)]
    return sum(await asyncio.gather(*(rig.redis.call("STRLEN", name) for name in names)))


def _allocated(rig: QueueRig) -> int:
    with rig.server.raw_client() as raw_client:
        memory = raw_client("INFO", "memory")
        return int(memory["used_memory_dataset"])


async def _work(stack: AsyncExitStack, rig: QueueRig, is_over: Check) -> tuple[float, float]:
    """Let workers work until all is done; return their CPU seconds, and the seconds it took."""
    words = ("work", "--silent")
    programs = [
        await stack.enter_async_context(contestants.running(rig.contestant, *words))
        for _ in range(_WORKERS)
    ]
    for program in programs:
        await program.read_line()
    clock = SystemClock()
    for program in programs:
        program.write_line()
    idle = [(await program.read_line())[0] for program in programs]
    began = clock.monotonic()
    while not await is_over():
        assert clock.monotonic() - began < _GIVE_UP_SECONDS, "it takes too long"
        await clock.sleep(_PAUSE_SECONDS)
    seconds = clock.monotonic() - began
    for program in programs:
        program.write_line()
    used = [(await program.read_line())[0] for program in programs]
    return sum(used) - sum(idle), seconds


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table(f"batches ({RUNS} runs each)", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
