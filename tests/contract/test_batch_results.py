"""The results of a batch at each moment of its life, as the functions leave them in Redis."""

from collections.abc import Sequence

import msgspec
import pytest

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.errors import Failure
from shared.redis import functions, library
from shared.redis.functions import (
    EndedChunk,
    EndOpenItemsAsk,
    ReadEndedAsk,
    RetryBatchAsk,
    StopBatchAsk,
    TakeEndedChunksAsk,
)
from shared.settings import Settings
from shared.stores import batches
from shared.stores.batches import BatchRef, BatchResults
from shared.tiers import LimitSettings
from shared.wire.batch import Batch, BatchItem
from shared.wire.message import decode_assistant
from tests.support import stored_batches
from tests.support.redis_functions import CHANNELS, KEEP, RedisFunctions
from tests.support.stored_batches import in_chunks, item, items
from worker.batches import packer

_CHUNK = 3
_DOWN = Failure(
    message="The provider is down.", category="provider_error", code="UPSTREAM_500", retryable=True
)


class Running:
    """A batch of seven items in chunks of three, of which so many are in the queue at once."""

    def __init__(self, queue: RedisFunctions, window: int = 4) -> None:
        self.queue = queue
        free = msgspec.structs.replace(LimitSettings().free, unfinished_max=2 * window)
        settings = Settings(redis=queue.settings, limits=LimitSettings(free=free))
        self.feeder = BatchFeeder(queue.redis, settings, SystemClock())
        self.reader = BatchResults(queue.redis)
        self.ref = BatchRef(queue.root, "ann", "")

    async def begin(self, lines: Sequence[BatchItem]) -> None:
        chunks = in_chunks(lines, _CHUNK)
        self.ref = self.ref._replace(
            id=await stored_batches.store(self.queue.redis, self.queue.root, chunks)
        )
        await self.feeder.feed(self.queue.root, "ann")

    async def batch(self) -> Batch:
        found = await batches.find(self.queue.redis, self.ref)
        assert found is not None
        return found

    async def shown(self) -> list[str]:
        """Return what each item has come to: its state, and what is not there yet as a dash."""
        batch = await self.batch()
        found = []
        for chunk in range(batch.chunks):
            read = await self.reader.read(self.ref, batch, chunk)
            assert read.first == chunk * _CHUNK
            found += [each.state if each is not None else "-" for each in read.results]
        return found

    async def pack(self) -> None:
        ask = TakeEndedChunksAsk(count=100, lease_ms=0)
        for chunk in await functions.take_ended_chunks(self.queue.redis, self.queue.root, ask):
            assert await packer.pack(self.queue.redis, self.queue.root, chunk)

    async def stop(self) -> None:
        ask = StopBatchAsk(account="ann", batch=self.ref.id, stop="cancelled")
        await functions.stop_batch(self.queue.redis, self.queue.root, ask)

    async def end_open(self) -> None:
        ask = EndOpenItemsAsk(
            account="ann", batch=self.ref.id, cursor="0", keep=KEEP, channels=CHANNELS
        )
        assert (await functions.end_open_items(self.queue.redis, self.queue.root, ask)).open == 0

    async def end_all(self) -> None:
        while (await self.batch()).finished is None:
            await self.feeder.feed(self.queue.root, "ann")
            await self.queue.complete(await self.queue.claim_one())
            await self.pack()


@pytest.fixture
async def running(queue: RedisFunctions) -> Running:
    """Return a batch to begin, of an account with credits."""
    await queue.grant(1_000)
    return Running(queue)


async def test_items_that_end_are_there_before_and_after_their_chunk_is_folded(
    running: Running,
) -> None:
    await running.begin(items(7))
    claimed = await running.queue.claim(4)
    await running.queue.complete(claimed[1], "Second.")
    assert await running.shown() == ["-", "completed", "-", "-", "-", "-", "-"]
    read = await running.reader.read(running.ref, await running.batch(), 0)
    second = read.results[1]
    assert second is not None
    assert (second.custom_id, second.line, second.seq) == ("c2", 2, 1)
    assert decode_assistant(second.answer).content == "Second."
    for one in (claimed[0], claimed[2]):
        await running.queue.complete(one)
    before = await running.reader.read(running.ref, await running.batch(), 0)
    await running.pack()
    after = await running.reader.read(running.ref, await running.batch(), 0)
    assert before == after
    assert await running.shown() == ["completed"] * 3 + ["-"] * 4
    await running.queue.complete(claimed[3])
    order = await batches.ended_after(running.queue.redis, running.ref, 0, 10)
    assert list(order) == [1, 0, 2, 3]
    assert list(await batches.ended_after(running.queue.redis, running.ref, 3, 10)) == [3]
    await running.end_all()
    assert await running.shown() == ["completed"] * 7


async def test_a_chunk_that_is_folded_between_two_reads_is_read_whole(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had ended must not seem open: the order of finishing would pass over it."""
    await running.begin(items(3))
    for one in await running.queue.claim(3):
        await running.queue.complete(one)
    batch, load = await running.batch(), BatchResults._load_names

    async def folded_before(reader: BatchResults, ref: BatchRef, chunk: int) -> object:
        await running.pack()
        return await load(reader, ref, chunk)

    monkeypatch.setattr(BatchResults, "_load_names", folded_before)
    read = await running.reader.read(running.ref, batch, 0)
    assert [each is not None for each in read.results] == [True] * 3


async def test_what_a_stop_cut_off_is_there_while_its_chunk_is_folded(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.begin(items(7))
    await running.stop()
    await running.end_open()
    batch, load = await running.batch(), BatchResults._load_names

    async def folded_before(reader: BatchResults, ref: BatchRef, chunk: int) -> object:
        await packer.pack(running.queue.redis, ref.root, EndedChunk(ref.account, ref.id, chunk))
        return await load(reader, ref, chunk)

    monkeypatch.setattr(BatchResults, "_load_names", folded_before)
    read = await running.reader.read(running.ref, batch, 2)
    assert [each and each.state for each in read.results] == ["cancelled"]


async def test_large_answers_are_read_in_several_calls(running: Running) -> None:
    await running.begin(items(3))
    texts = ["a" * 200_000, "b" * 300_000, "c" * 100_000]
    for text, one in zip(texts, await running.queue.claim(3), strict=True):
        await running.queue.complete(one, text)
    read = await running.reader.read(running.ref, await running.batch(), 0)
    assert [each and decode_assistant(each.answer).content for each in read.results] == texts
    ask = ReadEndedAsk(account="ann", batch=running.ref.id, chunk=0)
    first = await library.invoke(
        running.queue.redis, "read_ended", running.ref.root, ask, effect="none"
    )
    assert sum(len(each) for each in first if isinstance(each, bytes)) < sum(map(len, texts))


async def test_wrong_lines_say_what_is_wrong_at_once(running: Running) -> None:
    await running.begin([item(1), item(2, fault="`message` is missing."), item(3)])
    assert await running.shown() == ["-", "failed", "-"]
    read = await running.reader.read(running.ref, await running.batch(), 0)
    wrong = read.results[1]
    assert wrong is not None
    assert batches.failure(wrong, None) is not None
    assert (wrong.fault, wrong.seq) == ("`message` is missing.", 1)
    await running.end_all()
    assert await running.shown() == ["completed", "failed", "completed"]


async def test_what_a_stop_cuts_off_is_there_at_once_and_stays(running: Running) -> None:
    await running.begin(items(7))
    await running.queue.complete(await running.queue.claim_one())
    await running.stop()
    assert await running.shown() == ["completed", "-", "-", "-", *["cancelled"] * 3]
    await running.end_open()
    expected = ["completed", *["cancelled"] * 6]
    assert await running.shown() == expected
    assert (await running.batch()).state == "cancelled"
    await running.pack()
    assert await running.shown() == expected


async def test_a_failure_is_unfinished_while_it_runs_again(running: Running) -> None:
    await running.begin([item(1), item(2), item(3, fault="Wrong.")])
    first, second = await running.queue.claim(2)
    await running.queue.fail(first, _DOWN)
    assert await running.shown() == ["failed", "-", "failed"]
    await running.queue.complete(second)
    await running.pack()
    ask = RetryBatchAsk(account="ann", batch=running.ref.id, open_max=9)
    assert await functions.retry_batch(running.queue.redis, running.queue.root, ask) == "running"
    assert await running.shown() == ["-", "completed", "failed"]
    await running.feeder.feed(running.queue.root, "ann")
    await running.queue.complete(await running.queue.claim_one(), "Now.")
    read = await running.reader.read(running.ref, await running.batch(), 0)
    again = read.results[0]
    assert again is not None
    assert (again.state, again.seq, again.custom_id) == ("completed", 4, "c1")
    await running.pack()
    assert await running.shown() == ["completed", "completed", "failed"]
    order = await batches.ended_after(running.queue.redis, running.ref, 0, 10)
    assert list(order)[-1] == 0
