"""What a batch costs persons: their messages with and without one, in interleaved pairs.

One front, two workers and a fast upstream, each a process; persons come at a steady rate whatever
their answers take. Measured are the seconds to the first token and to the end, from the moment at
which each message should have been sent, in the same processes while a batch

runs             a batch of 50,000, paused for the half of a pair without it
is uploaded      a file of a million lines, which no worker sees since it never ends
is downloaded    the results of that batch, again and again
ends             batches of 50,000 that are cancelled while they run, and deleted

The machine is shared with all of this, so a control tells what is the machine's: busy loops take
as much CPU as the batch did, and nothing else. Another account's batch of ten is timed alone and
beside the 50,000.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.stores.accounts import Accounts
from shared.wire.account import DEFAULT_SCOPES
from shared.wire.batch import CHUNK_ITEMS_MAX
from tests.bench import (
    batch_download,
    batch_upload,
    bounds,
    contestants,
    figures,
    process_usage,
    system_rig,
)
from tests.bench.contestants import Contestant, Program
from tests.bench.figures import Figure
from tests.bench.persons import Arrivals
from tests.bench.system_rig import Rig
from tests.support import stored_batches
from tests.support.api_client import body

ITEMS: Final = 50_000
FILE_LINES: Final = 1_000_000
PAIRS: Final = 5
SECONDS: Final = 6.0
PER_SECOND: Final = 25.0
SMALL_BATCHES: Final = 5
_SMALL: Final = 10
_WORKERS: Final = 2
_GIVE_UP_SECONDS: Final = 120.0
_PAUSE_SECONDS: Final = 0.01
_HOLD: Final = 30_000
_MESSAGE: Final = "Hello [tokens=5 first=0.05 gap=0.01]"
_ITEM: Final = "An item [tokens=5]"
_CREDITS: Final = 10**15

# A block in which the load that is measured goes on.
Load = Callable[[], AbstractAsyncContextManager[None]]


class Half(NamedTuple):
    """One half of a pair: seconds to first tokens and to ends; cores that the system took."""

    first: list[float]
    whole: list[float]
    cores: float


class Pair(NamedTuple):
    """Both halves."""

    alone: Half
    beside: Half


class Sizes(NamedTuple):
    """How much is measured."""

    items: int = ITEMS
    file_lines: int = FILE_LINES
    pairs: int = PAIRS
    seconds: float = SECONDS
    small_batches: int = SMALL_BATCHES


async def measure(sizes: Sizes = Sizes()) -> list[Figure]:  # noqa: B008  a tuple never changes
    """Measure every load, one after the other."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(_program("tests.support.scripted_provider"))
        url = await upstream.read_word()
        system = await stack.enter_async_context(system_rig.running(workers=_WORKERS, upstream=url))
        bench = _Bench(
            system,
            await _key(system, "person"),
            await stack.enter_async_context(_program("tests.bench.persons")),
            [*system.pids, upstream.pid],
            sizes,
        )
        return await bench.measure()


class _Bench:
    """The running system, its persons, and its batches."""

    def __init__(
        self, system: Rig, person: str, persons: Program, pids: list[int], sizes: Sizes
    ) -> None:
        self._system = system
        self._persons = persons
        self._person = person
        self._pids = pids
        self._sizes = sizes
        self._seed = 0
        self._batch = ""

    async def measure(self) -> list[Figure]:
        await self._persons_seconds()
        self._batch = await self._uploaded()
        await self._pause()
        running = await self._pairs(self._runs)
        cores = figures.median(each.beside.cores - each.alone.cores for each in running)
        found = _figures("a batch runs", running, bounds.BESIDE_BATCH)
        found.append(Figure("  CPU of its own", f"{cores:.2f} cores"))
        async with AsyncExitStack() as stack:
            loops = [
                await stack.enter_async_context(_program("tests.bench.busy_loop"))
                for _ in range(_WORKERS)
            ]
            share = min(1.0, max(0.0, cores / _WORKERS))
            control = await self._pairs(lambda: _busy(loops, share))
        found += _figures("control: busy loops take as much CPU", control, None)
        found += await self._small()
        for name, load in (
            ("a batch is uploaded", self._is_uploaded),
            ("results are downloaded", self._is_downloaded),
            ("batches are cancelled and deleted", self._ends),
        ):
            found += _figures(name, await self._pairs(load), bounds.BESIDE_BATCH)
        return found

    async def _pairs(self, load: Load) -> list[Pair]:
        found = []
        for _ in range(self._sizes.pairs):
            self._seed += 1
            alone = await self._persons_seconds()
            async with load():
                beside = await self._persons_seconds()
            found.append(Pair(alone, beside))
        return found

    async def _persons_seconds(self) -> Half:
        """Let persons send messages for some seconds; both halves of a pair at the same times."""
        content = msgspec.json.encode({"message": _MESSAGE, "stream": True}).decode()
        arrivals = Arrivals(
            port=int(self._system.url.rpartition(":")[2]),
            request="POST /v1/ai/chat HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            f"x-api-key: {self._person}\r\ncontent-length: {len(content)}\r\n\r\n{content}",
            first="word0",
            last="event: completed",
            per_second=PER_SECOND,
            seconds=self._sizes.seconds,
            seed=self._seed,
        )
        cpu = process_usage.cpu_seconds(self._pids)
        self._persons.write_line(msgspec.json.encode(arrivals).decode())
        bad, *times = await self._persons.read_line()
        cores = (process_usage.cpu_seconds(self._pids) - cpu) / self._sizes.seconds
        assert not bad, f"{bad:.0f} answers are wrong"
        return Half(times[::2], times[1::2], cores)

    # -- loads -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _runs(self) -> AsyncIterator[None]:
        await self._post(f"{self._batch}/resume")
        yield
        counts = await self._pause()
        assert counts["waiting"], "the batch ended too early"

    @asynccontextmanager
    async def _is_uploaded(self) -> AsyncIterator[None]:
        lines = b"".join(batch_upload.prompt_lines(self._sizes.file_lines))
        request = batch_upload.request_of(self._system, {}, lines)
        async with _in_thread(lambda stop: batch_upload.keep_sending(self._system, request, stop)):
            yield

    @asynccontextmanager
    async def _is_downloaded(self) -> AsyncIterator[None]:
        path = f"/api/v1/batches/{self._batch}/results?partial=true"
        request = batch_download.request_of(path, self._system.key, "identity")
        async with _in_thread(
            lambda stop: batch_download.keep_reading(self._system, request, stop)
        ):
            yield

    @asynccontextmanager
    async def _ends(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        ending = asyncio.create_task(self._keep_ending(stop))
        yield
        stop.set()
        await ending

    async def _keep_ending(self, stop: asyncio.Event) -> None:
        """Cancel and delete batches, a window of which is in the queue."""
        system, count = self._system, self._sizes.items
        feeder = BatchFeeder(system.redis, system.settings, SystemClock())
        chunk = [
            stored_batches.item(line, _ITEM, hold=_HOLD) for line in range(1, CHUNK_ITEMS_MAX + 1)
        ]
        chunks = [chunk[: count - at] for at in range(0, count, CHUNK_ITEMS_MAX)]
        while not stop.is_set():
            batch = await stored_batches.store(
                system.redis, system.root, chunks, account=system.account.id
            )
            await feeder.feed(system.root, system.account.id)
            await self._post(f"{batch}/cancel")
            await self._until(batch, lambda found: found["state"] == "cancelled")
            async with system.customer() as customer:
                body(await customer.delete(f"/api/v1/batches/{batch}"))

    # -- batches -----------------------------------------------------------------------------------

    async def _uploaded(self) -> str:
        lines = b"".join(
            msgspec.json.encode({"message": _ITEM}) + b"\n" for _ in range(self._sizes.items)
        )
        return await self._post("", content=lines, kind="application/x-ndjson")

    async def _post(self, path: str, key: str = "", *, content: bytes = b"", kind: str = "") -> str:
        """Send a request about batches; return the batch's id."""
        headers = {"x-api-key": key or self._system.key}
        if kind:
            headers["content-type"] = kind
        where = f"/api/v1/batches/{path}".rstrip("/")
        async with self._system.customer() as customer:
            reply = body(await customer.post(where, content=content, headers=headers))
        return str(reply["batch_id"])

    async def _pause(self) -> dict[str, int]:
        """Pause the batch, and wait until none of its items runs; return its counts."""
        await self._post(f"{self._batch}/pause")
        found = await self._until(self._batch, lambda found: not found["counts"]["open"])
        return dict(found["counts"])

    async def _until(
        self, batch: str, is_so: Callable[[dict[str, Any]], bool], key: str = ""
    ) -> dict[str, Any]:
        clock = SystemClock()
        ends = clock.monotonic() + _GIVE_UP_SECONDS
        headers = {"x-api-key": key or self._system.key}
        async with self._system.customer() as customer:
            while True:
                found = body(await customer.get(f"/api/v1/batches/{batch}", headers=headers))
                if is_so(found):
                    return found
                assert clock.monotonic() < ends, found
                await clock.sleep(_PAUSE_SECONDS)

    async def _small(self) -> list[Figure]:
        """Time another account's batch of ten, alone and beside the large one."""
        key = await _key(self._system, "small")
        alone, beside = [], []
        for _ in range(self._sizes.small_batches):
            alone.append(await self._small_seconds(key))
            async with self._runs():
                beside.append(await self._small_seconds(key))
        more = max(beside) - max(alone)
        return [
            Figure(
                f"another account's batch of {_SMALL}, the longest of {len(beside)}",
                f"{max(beside):.2f} s",
                f"alone {max(alone):.2f} s",
                f"<= {bounds.SMALL_BATCH_SECONDS} s more",
                more <= bounds.SMALL_BATCH_SECONDS,
            )
        ]

    async def _small_seconds(self, key: str) -> float:
        clock = SystemClock()
        lines = (msgspec.json.encode({"message": _ITEM}) + b"\n") * _SMALL
        began = clock.monotonic()
        batch = await self._post("", key, content=lines, kind="application/x-ndjson")
        await self._until(batch, lambda found: found["state"] == "completed", key)
        return clock.monotonic() - began


def _figures(name: str, pairs: list[Pair], bound: float | None) -> list[Figure]:
    """Judge the median of the pairs' ratios at p99, for the first token and for the end."""
    found = []
    for what, read in (("first token", itemgetter(0)), ("end", itemgetter(1))):
        for share in (0.5, 0.99):
            times = [[figures.quantile(read(half), share) for half in pair] for pair in pairs]
            ratio = figures.median(beside / alone for alone, beside in times)
            alone, beside = (figures.median(each[side] for each in times) for side in (0, 1))
            is_judged = bound is not None and share > 0.5
            found.append(
                Figure(
                    f"{name}: {what}, p{share * 100:.0f}",
                    f"{ratio:.2f} times",
                    f"{beside * 1000:.1f} ms, {alone * 1000:.1f} ms without",
                    f"<= {bound}" if is_judged else "",
                    ratio <= bound if bound is not None and is_judged else None,
                )
            )
    return found


@asynccontextmanager
async def _in_thread(work: Callable[[threading.Event], None]) -> AsyncIterator[None]:
    stop = threading.Event()
    doing = asyncio.create_task(asyncio.to_thread(work, stop))
    yield
    stop.set()
    await doing


@asynccontextmanager
async def _busy(loops: list[Program], share: float) -> AsyncIterator[None]:
    for loop in loops:
        loop.write_line(f"{share}")
        await loop.read_line()
    yield
    for loop in loops:
        loop.write_line("0")
        await loop.read_line()


def _program(module: str) -> AbstractAsyncContextManager[Program]:
    return contestants.running(Contestant(module, (sys.executable, "-m", module)))


async def _key(system: Rig, name: str) -> str:
    """Return a key of a new account with credits."""
    accounts = Accounts(system.redis, system.settings.redis, b"", SystemClock())
    account = await accounts.create(name, "enterprise")
    await accounts.grant(account, _CREDITS)
    return (await accounts.create_key(account, DEFAULT_SCOPES)).key


async def report() -> None:
    """Measure and print."""
    figures.print_line(figures.table("batch_beside", await measure()))


if __name__ == "__main__":
    figures.print_line(figures.machine())
    asyncio.run(report())
