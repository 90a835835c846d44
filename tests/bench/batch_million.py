"""A million prompts from the first byte sent to the last result read, beside two other ways.

One front, two workers, a server and an upstream that answers at once, all of them processes. A file
of short prompts is uploaded; while it runs its results are read in the order of finishing, and in
the order of input at the end. Every answer is checked, and so are the account's books. Before and
after it, with the same upstream, a part of as many

plain generations   run in two such workers; they wait already, so no front and no feeder works
calls by hand       are made by `asyncio` and httpx in one process, as in a script of one's own

One run says little of a busy machine, hence the two samples; CPU is that of all processes but the
upstream's and this one's. Every process is warm before it is measured.
"""

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple

from shared.clock import SystemClock
from shared.redis import keys
from shared.settings import ModelSettings
from tests.bench import (
    batch_upload,
    batch_watch,
    bounds,
    contestants,
    figures,
    process_usage,
    queue_rig,
    system_rig,
)
from tests.bench.batch_watch import Sample
from tests.bench.contestants import Contestant
from tests.bench.figures import Figure, median
from tests.bench.result_reader import ResultReader
from tests.bench.system_rig import Rig
from tests.support import redis_invariants
from tests.support.api_client import body
from tests.support.redis_functions import RedisFunctions
from tests.support.waiting import until

ITEMS: Final = 1_000_000
CONCURRENCY: Final = 256
_WORKERS: Final = 2
_TOKENS: Final = 8
# Of the items, how many each sample has; more make no figure steadier.
_SAMPLE_SHARE: Final = 20
_PLAIN_MAX: Final = 20_000
_BY_HAND_MAX: Final = 10_000
_ACCEPTED_AT_ONCE: Final = 100
# A sample of the engine begins once this share of it has ended.
_WARM_SHARE: Final = 0.1
_WARMING_ITEMS: Final = 300
# Calls by hand under way at once: httpx' pool takes twice the CPU for 16, four times for 32.
_CALLS_AT_ONCE: Final = 8
_GIVE_UP_SECONDS: Final = 600.0
_PAUSE_SECONDS: Final = 0.02
_MIB: Final = 2**20


class Upstream(NamedTuple):
    """The upstream of all, and its process."""

    url: str
    pid: int


class Pace(NamedTuple):
    """Items a second, and the CPU seconds of one."""

    per_second: float
    cpu_seconds: float


class Compared(NamedTuple):
    """A sample of both other ways."""

    plain: Pace
    by_hand: Pace


class Usage(NamedTuple):
    """CPU seconds that each part of a system has taken so far."""

    workers: float
    front: float
    server: float
    upstream: float
    bench: float

    @property
    def ours(self) -> float:
        """The CPU seconds of what is measured."""
        return self.workers + self.front + self.server


class Ran(NamedTuple):
    """A batch that was run: samples of its progress, both readers, and what it took.

    `seconds` are from the upload's end until the last result was delivered and packed,
    `all_seconds` from the first byte sent until the last one was read in the order of input.
    """

    upload: batch_upload.Upload
    waiting: Figure
    samples: Sequence[Sample]
    finished: ResultReader
    in_order: ResultReader
    used: Usage
    seconds: float
    all_seconds: float
    read_seconds: float
    front_mib: float
    ended_bytes: float
    book_faults: Sequence[str]


async def measure(items: int = ITEMS, *, is_compared_twice: bool = True) -> list[Figure]:
    """Run a batch of that size, and samples of the other ways before it and after it."""
    async with _upstream() as upstream:
        compared = [await _compared(upstream, items)]
        ran = await _run(upstream, items)
        if is_compared_twice:
            compared.append(await _compared(upstream, items))
    return _figures(ran, compared, items)


@asynccontextmanager
async def _upstream() -> AsyncIterator[Upstream]:
    contestant = Contestant("upstream", (sys.executable, "-m", "tests.bench.fast_upstream"))
    words = ("--echo", "--tokens", str(_TOKENS))
    async with contestants.running(contestant, *words) as program:
        (port,) = await program.read_line()
        yield Upstream(f"http://127.0.0.1:{port:.0f}/v1", program.pid)


def _models() -> tuple[ModelSettings, ...]:
    return (system_rig.model("echo"),)


def _expected(number: int) -> str:
    words = "".join(f" word{word}" for word in range(1, _TOKENS))
    return f"{number}{words}"


async def _compared(upstream: Upstream, items: int) -> Compared:
    count = max(_ACCEPTED_AT_ONCE, items // _SAMPLE_SHARE)
    figures.print_line("plain generations, and calls by hand ...")
    plain = await _plain(upstream, min(count, _PLAIN_MAX))
    return Compared(plain, await _by_hand(upstream, min(count, _BY_HAND_MAX)))


async def _plain(upstream: Upstream, count: int) -> Pace:
    """Accept generations, then start workers; the first tenth of them is their warming up."""
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            system_rig.running(concurrency=CONCURRENCY, models=_models(), upstream=upstream.url)
        )
        account = system.account
        queue = RedisFunctions(system.redis, system.settings.redis, account.partition)
        for _ in range(0, count, _ACCEPTED_AT_ONCE):
            await asyncio.gather(
                *(queue_rig.accept(queue, account.id) for _ in range(_ACCEPTED_AT_ONCE))
            )
        workers = [
            stack.enter_context(system_rig.program(["worker"], system.environment))
            for _ in range(_WORKERS)
        ]
        pids = [system.server.pid, *(worker.pid for worker in workers)]
        unfinished = keys.UNFINISHED(system.root, account.id, "interactive")
        first = await _at_most(system, unfinished, int(count * (1 - _WARM_SHARE)))
        began, cpu = time.perf_counter(), process_usage.cpu_seconds(pids)
        await _at_most(system, unfinished, 0)
        seconds = time.perf_counter() - began
        return Pace(first / seconds, (process_usage.cpu_seconds(pids) - cpu) / first)


async def _at_most(system: Rig, name: str, count: int) -> int:
    """Wait until a set has at most so many members; return how many."""
    clock = SystemClock()
    ends = clock.monotonic() + _GIVE_UP_SECONDS
    while (left := int(await system.redis.call("ZCARD", name))) > count:
        assert clock.monotonic() < ends, f"{left} are left in {name}"
        await clock.sleep(_PAUSE_SECONDS)
    return left


async def _by_hand(upstream: Upstream, count: int) -> Pace:
    contestant = Contestant("by hand", (sys.executable, "-m", "tests.bench.direct_calls"))
    words = ("--url", f"{upstream.url}/chat/completions", "--count", str(count))
    async with contestants.running(contestant, *words, "--at-once", str(_CALLS_AT_ONCE)) as calls:
        seconds, cpu = await calls.read_line()
        return Pace(count / seconds, cpu / count)


async def _run(upstream: Upstream, items: int) -> Ran:
    async with system_rig.running(
        workers=_WORKERS, concurrency=CONCURRENCY, models=_models(), upstream=upstream.url
    ) as system:
        figures.print_line(f"a batch of {items:,} ...")
        warming = b"".join(batch_upload.prompt_lines(_WARMING_ITEMS))
        sent = (await batch_upload.upload(system, "", {}, warming, _WARMING_ITEMS)).sent
        await _read_meanwhile(system, sent.batch, _WARMING_ITEMS)
        return await _measured(system, upstream, items)


async def _measured(system: Rig, upstream: Upstream, items: int) -> Ran:
    lines = b"".join(batch_upload.prompt_lines(items))
    empty, began, used = (
        await batch_upload.used_bytes(system),
        time.perf_counter(),
        _used(system, upstream),
    )
    upload = await batch_upload.upload(system, "upload", {}, lines, items)
    uploaded = time.perf_counter()
    stored = await batch_upload.used_bytes(system) - empty
    waiting = batch_upload.waiting_bytes(stored, lines, items)
    process_usage.reset_peak(system.api.pid)
    resident = process_usage.resident_bytes(system.api.pid)
    samples, finished = await _read_meanwhile(system, upload.sent.batch, items)
    done, used = time.perf_counter(), _since(used, _used(system, upstream))
    ended = (await _quiet_bytes(system) - empty - await _results_bytes(system, upload)) / items
    reading = time.perf_counter()
    in_order = ResultReader(system, upload.sent.batch, items, "input", _expected)
    await asyncio.to_thread(in_order.follow, threading.Event())
    read_seconds = time.perf_counter() - reading
    return Ran(
        upload=upload,
        waiting=waiting,
        samples=samples,
        finished=finished,
        in_order=in_order,
        used=used,
        seconds=done - uploaded,
        all_seconds=done - began + read_seconds,
        read_seconds=read_seconds,
        front_mib=(process_usage.peak_bytes(system.api.pid) - resident) / _MIB,
        ended_bytes=ended,
        book_faults=await _book_faults(system, upload.sent.batch, finished),
    )


async def _read_meanwhile(
    system: Rig, batch: str, items: int
) -> tuple[Sequence[Sample], ResultReader]:
    """Watch a batch and read its results as they come, until all of it is packed."""
    reader, give_up = ResultReader(system, batch, items, "finished", _expected), threading.Event()
    reading = asyncio.create_task(asyncio.to_thread(reader.follow, give_up))
    try:
        samples = await batch_watch.watch(system, batch)
        await _at_most(system, keys.BATCH_CHUNKS_TO_PACK(system.root), 0)
        await reading
    finally:
        give_up.set()
    return samples, reader


def _used(system: Rig, upstream: Upstream) -> Usage:
    return Usage(
        process_usage.cpu_seconds(worker.pid for worker in system.workers),
        process_usage.cpu_seconds([system.api.pid]),
        process_usage.cpu_seconds([system.server.pid]),
        process_usage.cpu_seconds([upstream.pid]),
        time.process_time(),
    )


def _since(before: Usage, now: Usage) -> Usage:
    return Usage(*(last - first for first, last in zip(before, now, strict=True)))


async def _quiet_bytes(system: Rig) -> int:
    """Return the server's memory once it neither rewrites its file nor frees what was deleted."""
    pending = (b"aof_rewrite_in_progress:0", b"lazyfree_pending_objects:0")

    async def is_quiet() -> bool:
        text: bytes = await system.redis.call("INFO", "everything")
        return all(line in text for line in pending)

    await until(is_quiet, _GIVE_UP_SECONDS, what="a quiet server")
    return await batch_upload.used_bytes(system)


async def _results_bytes(system: Rig, upload: batch_upload.Upload) -> int:
    """Return the size of all packed results."""
    batch, where = upload.sent.batch, (system.root, system.account.id)
    chunks = int(await system.redis.call("HGET", keys.BATCH(*where, batch), "chunks"))
    names = [keys.BATCH_RESULTS(*where, batch, chunk) for chunk in range(chunks)]
    return sum(await asyncio.gather(*(system.redis.call("STRLEN", name) for name in names)))


async def _book_faults(system: Rig, batch: str, reader: ResultReader) -> list[str]:
    """Return what does not add up: the lines' credits and the batch's, and all that is stored."""
    with system.server.raw_client() as raw_client:
        faults = redis_invariants.faults(raw_client, system.settings.redis)
    async with system.customer() as customer:
        said = body(await customer.get(f"/api/v1/batches/{batch}"))["credits"]
    if round(said["used"] * 1_000_000) != reader.check.microcredits or said["held"]:
        faults.append(f"{said}, but the lines say {reader.check.microcredits} microcredits")
    return faults


def _figures(ran: Ran, compared: Sequence[Compared], items: int) -> list[Figure]:
    return [
        *ran.upload.figures,
        ran.waiting,
        *_rate_figures(ran, compared, items),
        *batch_watch.progress_figures(ran.samples),
        _checked("results in the order of finishing, while it runs", ran.finished, items),
        _checked("results in the order of input, at the end", ran.in_order, items),
        Figure(
            "  read at",
            f"{items / ran.read_seconds:,.0f} a second",
            f"{ran.in_order.size / _MIB / ran.read_seconds:.1f} MiB/s, each line checked",
        ),
        _at_most_figure(
            "front's memory grew meanwhile by", ran.front_mib, bounds.UPLOAD_MIB, "MiB"
        ),
        Figure(
            "faults in the books",
            str(len(ran.book_faults)),
            "; ".join(ran.book_faults[:3]) or f"{ran.finished.check.microcredits:,} microcredits",
            f"<= {bounds.FAULTS}",
            len(ran.book_faults) <= bounds.FAULTS,
        ),
        _at_most_figure(
            "Redis bytes of an ended item beside its answer",
            ran.ended_bytes,
            bounds.BATCH_ITEM_BYTES,
            "bytes",
        ),
        *_cpu_figures(ran, compared, items),
    ]


def _rate_figures(ran: Ran, compared: Sequence[Compared], items: int) -> list[Figure]:
    plain = [each.plain.per_second for each in compared]
    ratio = items / ran.seconds / median(plain)
    return [
        Figure(
            "items a second, from the upload's end to the last result",
            f"{ratio:.2f} of the engine's rate",
            f"{items / ran.seconds:,.0f} beside {_each(plain, '{:,.0f}')}",
            f">= {bounds.BATCH_OF_ENGINE}",
            ratio >= bounds.BATCH_OF_ENGINE,
        ),
        Figure(
            "  with upload and both downloads",
            f"{items / ran.all_seconds:,.0f} a second",
            f"{ran.all_seconds:,.0f} s; by hand "
            + _each([each.by_hand.per_second for each in compared], "{:,.0f}"),
        ),
    ]


def _cpu_figures(ran: Ran, compared: Sequence[Compared], items: int) -> list[Figure]:
    plain = [each.plain.cpu_seconds * 1e6 for each in compared]
    by_hand = [each.by_hand.cpu_seconds * 1e6 for each in compared]
    each = Usage(*(part / items * 1e6 for part in ran.used))
    took = ran.seconds + ran.upload.sent.seconds
    shares = {"upstream": ran.used.upstream, "this bench": ran.used.bench, "ours": ran.used.ours}
    return [
        Figure(
            "CPU of an item, upload and download included",
            f"{each.ours:.0f} us = {each.ours / median(by_hand):.2f}",
            f"by hand, asyncio and httpx: {_each(by_hand, '{:.0f}')} us",
        ),
        Figure(
            "  of that",
            f"workers {each.workers:.0f}, front {each.front:.0f}, server {each.server:.0f} us",
            f"plain generation: {_each(plain, '{:.0f}')} us in workers and server",
        ),
        Figure(
            "  cores taken meanwhile",
            ", ".join(f"{name} {used / took:.2f}" for name, used in shares.items()),
            "the upstream is no limit below 1",
        ),
    ]


def _checked(name: str, reader: ResultReader, items: int) -> Figure:
    faults = reader.check.fault_count + reader.check.missing
    return Figure(
        name,
        f"{faults} faults",
        "; ".join(reader.check.faults[:2]) or f"{reader.check.lines:,} of {items:,}, each once",
        f"<= {bounds.FAULTS}",
        faults <= bounds.FAULTS,
    )


def _at_most_figure(name: str, found: float, bound: float, unit: str) -> Figure:
    return Figure(name, f"{found:.1f} {unit}", "", f"<= {bound} {unit}", found <= bound)


def _each(found: Sequence[float], form: str) -> str:
    return " and ".join(form.format(each) for each in found)


async def report(items: int) -> None:
    """Measure and print."""
    began = time.perf_counter()
    found = await measure(items)
    title = f"batch_million, one run in {time.perf_counter() - began:.0f} s"
    figures.print_line(figures.table(title, found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=ITEMS)
    figures.print_line(figures.machine())
    asyncio.run(report(parser.parse_args().items))
