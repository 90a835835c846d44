"""Items of a batch: they enter the queue in a window, are counted where they end, and are packed.

After each test `tests/support/redis_invariants.py` checks counts, credits, bytes and what is left.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec
import pytest
from typing_extensions import override

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.errors import Failure
from shared.redis import functions, keys, library
from shared.redis.client import Argument, Redis, Reply
from shared.redis.functions import (
    AdoptItemsAsk,
    BatchConflict,
    Cancelled,
    EndOpenItemsAsk,
    EnqueueItemsAsk,
    NotEnqueued,
    PauseBatchAsk,
    PlanFeedAsk,
    ReadEndedAsk,
    ResumeBatchAsk,
    RetryBatchAsk,
    RetryRefused,
    StopBatchAsk,
    TakeEndedChunksAsk,
)
from shared.settings import RedisSettings, Settings
from shared.stores import account_log, partition_load
from shared.tiers import LimitSettings
from shared.wire.batch import BatchItem, ItemResult, unpack_results
from shared.wire.batch_copies import Copy
from shared.wire.message import decode_assistant
from shared.wire.submission import BATCH_WIRE, TURN_WIRE
from tests.support import stored_batches
from tests.support.redis_functions import CHANNELS, KEEP, RedisFunctions, Ticket
from tests.support.stored_batches import in_chunks, item, items
from worker.batches import packer
from worker.batches.work import BatchWork

_DOWN = Failure(
    message="The provider is down.", category="provider_error", code="UPSTREAM_500", retryable=True
)


BatchStop = Literal["cancelled", "expired"]


class Batches:
    """Batches of one account, as a worker and the API process work on them."""

    def __init__(self, queue: RedisFunctions, window: int) -> None:
        self.queue = queue
        self.redis, self.root = queue.redis, queue.root
        self.settings = Settings(
            redis=queue.settings,
            limits=LimitSettings(
                free=msgspec.structs.replace(LimitSettings().free, unfinished_max=2 * window)
            ),
        )
        self.feeder = BatchFeeder(self.redis, self.settings, SystemClock())

    async def store(
        self,
        chunks: Sequence[Sequence[BatchItem]],
        max_credits: int | None = None,
        copies: Sequence[Copy] = (),
    ) -> str:
        return await stored_batches.store(
            self.redis, self.root, chunks, max_credits=max_credits, copies=copies
        )

    async def feed(self) -> int:
        return await self.feeder.feed(self.root, "ann")

    async def record(self, batch: str) -> dict[str, str]:
        stored = await self.redis.call("HGETALL", keys.BATCH(self.root, "ann", batch))
        return {name.decode(): value.decode() for name, value in stored.items()}

    async def counts(self, batch: str, *names: str) -> list[int]:
        record = await self.record(batch)
        return [int(record.get(name, 0)) for name in names]

    async def complete(self, count: int = 100, cost: int = 3) -> list[functions.Settled]:
        """Claim and complete so many items."""
        settled: list[functions.Settled] = []
        while len(settled) < count and (found := await self.queue.claim(1)):
            answer = f"answer {found[0].id}"
            settled.append(await self.queue.complete(found[0], answer, cost=cost))
        return settled

    async def pack(self) -> int:
        chunks = await functions.take_ended_chunks(
            self.redis, self.root, TakeEndedChunksAsk(count=100, lease_ms=0)
        )
        for chunk in chunks:
            assert await packer.pack(self.redis, self.root, chunk)
        return len(chunks)

    async def run(self, batch: str) -> None:
        """Run a batch to its end."""
        while (await self.record(batch))["state"] == "running":
            await self.feed()
            assert await self.complete()
            await self.pack()

    async def pack_deleted(self) -> None:
        """Let a worker find that the batch of each chunk is gone."""
        ask = TakeEndedChunksAsk(count=100, lease_ms=0)
        for chunk in await functions.take_ended_chunks(self.redis, self.root, ask):
            assert not await packer.pack(self.redis, self.root, chunk)
        assert await functions.take_ended_chunks(self.redis, self.root, ask) == []

    async def results(self, batch: str, chunk: int = 0) -> tuple[ItemResult | None, ...]:
        stored = await self.redis.call("GET", keys.BATCH_RESULTS(self.root, "ann", batch, chunk))
        return unpack_results(stored)

    async def stop(self, batch: str, stop: BatchStop) -> functions.StoppedBatch | None:
        ask = StopBatchAsk(account="ann", batch=batch, stop=stop)
        return await functions.stop_batch(self.redis, self.root, ask)

    async def end_open(self, batch: str) -> int:
        cursor, left = "0", 0
        while cursor:
            ask = EndOpenItemsAsk(
                account="ann", batch=batch, cursor=cursor, keep=KEEP, channels=CHANNELS
            )
            left, next_cursor = await functions.end_open_items(self.redis, self.root, ask)
            cursor = next_cursor or ""
        return left

    async def adopt(self, batch: str) -> functions.BatchUnderWay | None:
        ask = AdoptItemsAsk(account="ann", batch=batch, cursor="0")
        return await functions.adopt_items(self.redis, self.root, ask)

    async def retry(self, batch: str, open_max: int = 10) -> object:
        ask = RetryBatchAsk(account="ann", batch=batch, open_max=open_max)
        return await functions.retry_batch(self.redis, self.root, ask)

    async def pause(self, batch: str) -> object:
        return await functions.pause_batch(
            self.redis, self.root, PauseBatchAsk(account="ann", batch=batch)
        )

    async def resume(self, batch: str, max_credits: int | None = None) -> object:
        ask = ResumeBatchAsk(account="ann", batch=batch, max_credits=max_credits)
        return await functions.resume_batch(self.redis, self.root, ask)

    async def left_of(self, batch: str) -> set[str]:
        """Return the families of keys that still name an item."""
        names: list[bytes] = await self.redis.call("KEYS", f"{self.root}*{batch}-*")
        return {name.decode().removeprefix(self.root).partition(":")[0] for name in names}


@pytest.fixture
async def batches(queue: RedisFunctions) -> Batches:
    """Return batches of an account with credits, in windows of eight."""
    await queue.grant(1_000)
    return Batches(queue, window=8)


async def test_a_window_of_items_enters_the_queue_and_the_rest_stays_packed(
    batches: Batches,
) -> None:
    batch = await batches.store(in_chunks(items(20), 7))
    assert await batches.feed() == 8
    assert await batches.counts(batch, "position", "open", "held") == [8, 8, 80]
    assert await batches.feed() == 0
    [claimed] = await batches.queue.claim(1)
    assert claimed.id == f"{batch}-0"
    assert claimed.lane == "batch"
    found = await batches.queue.find("ann", claimed.id)
    assert found is not None
    assert found.record["batch"] == f"{batch} 0 1 0 7"
    assert found.record["key"] == "key-1"


async def test_places_in_the_queue_cost_as_many_commands_for_many_items_as_for_one(
    queue: RedisFunctions,
) -> None:
    await queue.grant(10_000)
    batches = Batches(queue, window=200)
    names = ("zadd", "sadd", "lpush", "zscore")

    async def commands_of(count: int) -> list[int]:
        await batches.store([items(count)])
        await batches.redis.call("CONFIG", "RESETSTAT")
        assert await batches.feed() == count
        stats = (await batches.redis.call("INFO", "commandstats")).decode()
        return [_calls(stats, name) for name in names]

    # The first item also brings the account into its lane.
    await commands_of(1)
    second = await commands_of(1)
    assert await commands_of(60) == second
    wakeups = keys.WAKEUP_FOR(batches.root, "batch", f"wire|{BATCH_WIRE}")
    assert await batches.redis.call("LLEN", wakeups) == 62
    assert len(await batches.complete()) == 62


def _calls(stats: str, name: str) -> int:
    """Return how often a command was called; 0 where the server counted none."""
    return int(stats.partition(f"cmdstat_{name}:calls=")[2].partition(",")[0] or 0)


async def test_a_batch_runs_to_its_end_and_is_packed_and_billed_once_a_chunk(
    batches: Batches,
) -> None:
    batch = await batches.store(in_chunks(items(20), 7))
    await batches.run(batch)
    record = await batches.record(batch)
    assert record["state"] == "completed"
    assert [int(record[name]) for name in ("completed", "used", "seq", "open")] == [20, 60, 20, 0]
    assert int(record["finished"]) >= int(record["started"])
    assert await batches.left_of(batch) == set()
    totals = await batches.queue.credit_totals()
    assert (totals.balance, totals.held, totals.settled) == (940, 0, 60)
    ledger = await batches.redis.call("XLEN", keys.LEDGER(batches.root, "ann"))
    assert ledger == 1 + 3
    results = [one for chunk in range(3) for one in await batches.results(batch, chunk)]
    assert [one.custom_id for one in results if one] == [f"c{line}" for line in range(1, 21)]
    for index, one in enumerate(results):
        assert one is not None
        assert decode_assistant(one.answer).content == f"answer {batch}-{index}"
        assert (one.state, one.captured) == ("completed", 3)


async def test_the_order_of_finishing_is_kept(batches: Batches) -> None:
    batch = await batches.store([items(4)])
    await batches.feed()
    claimed = await batches.queue.claim(4)
    for one in reversed(claimed):
        await batches.queue.complete(one)
    order = await batches.redis.call("GET", keys.BATCH_ORDER(batches.root, "ann", batch))
    assert [order[place : place + 4] for place in range(0, 16, 4)] == [
        bytes([0, 0, 0, index]) for index in (3, 2, 1, 0)
    ]
    read = ReadEndedAsk(account="ann", batch=batch, chunk=0)
    ended = await functions.read_ended(batches.redis, batches.root, read)
    assert sorted((one.index, one.seq) for one in ended) == [(0, 4), (1, 3), (2, 2), (3, 1)]
    assert decode_assistant(ended[0].answer).content == "Hi"
    await batches.pack()
    assert await functions.read_ended(batches.redis, batches.root, read) == []


async def test_a_wrong_line_fails_in_its_place(batches: Batches) -> None:
    lines = [item(1), item(2, fault="no message"), item(3), item(4, fault="no model")]
    batch = await batches.store([lines])
    assert await batches.feed() == 2
    assert await batches.counts(batch, "failed", "position", "open") == [2, 4, 2]
    await batches.complete()
    await batches.pack()
    assert (await batches.record(batch))["state"] == "completed"
    states = [(one.state, one.fault) for one in await batches.results(batch) if one is not None]
    assert states == [
        ("completed", ""),
        ("failed", "no message"),
        ("completed", ""),
        ("failed", "no model"),
    ]


@pytest.mark.parametrize("lines", [[], [item(1, fault="no"), item(2, fault="no")]])
async def test_a_batch_without_anything_to_run_fails(
    batches: Batches, lines: list[BatchItem]
) -> None:
    batch = await batches.store([lines] if lines else [])
    assert await batches.feed() == 0
    assert (await batches.record(batch))["state"] == "failed"
    assert await batches.pack() == len(lines[:1])


async def _enqueue(batches: Batches, position: int) -> object:
    ask = PlanFeedAsk(account="ann")
    plan = await functions.plan_feed(batches.redis, batches.root, ask)
    assert isinstance(plan, functions.FeedPlan)
    entries = (await batches.feeder._entries("ann", plan))[:2]
    terms = await batches.feeder._terms(batches.root, "ann", plan)
    enqueue = msgspec.structs.replace(
        terms, position=position, next=position + 2, entries=[each.entry for each in entries]
    )
    assert isinstance(enqueue, EnqueueItemsAsk)
    blob = b"".join(each.submission for each in entries)
    return await functions.enqueue_items(batches.redis, batches.root, enqueue, blob)


async def test_items_enter_once_although_the_reply_was_lost(batches: Batches) -> None:
    batch = await batches.store([items(6)])
    await _enqueue(batches, 0)
    before = await batches.record(batch)
    assert await _enqueue(batches, 0) == NotEnqueued("moved")
    assert await batches.record(batch) == before
    assert (await batches.queue.credit_totals()).held == 20


async def test_feeders_at_the_same_time_double_nothing(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(30), 5))
    fed = await asyncio.gather(*(batches.feed() for _ in range(4)))
    assert sum(fed) == 8
    assert await batches.counts(batch, "position", "open") == [8, 8]


async def test_a_settlement_below_half_a_window_asks_one_worker_to_feed(batches: Batches) -> None:
    await batches.store([items(30)])
    await batches.feed()
    hints = [(one.wants_feed, one.wants_pack) for one in await batches.complete(8)]
    assert hints.count((True, False)) == 1
    assert hints.index((True, False)) == 3
    await batches.feed()
    hints = [(one.wants_feed, one.wants_pack) for one in await batches.complete(8)]
    assert hints.index((True, False)) == 3


async def test_the_end_of_a_chunk_asks_for_its_packing(batches: Batches) -> None:
    await batches.store([items(3)])
    await batches.feed()
    hints = [one.wants_pack for one in await batches.complete()]
    assert hints == [False, False, True]


async def test_batches_of_an_account_take_turns(batches: Batches) -> None:
    first = await batches.store(in_chunks(items(40), 2))
    second = await batches.store(in_chunks(items(40), 2))
    await batches.feed()
    assert await batches.counts(first, "open") == [4]
    assert await batches.counts(second, "open") == [4]


async def test_a_full_window_is_found_by_one_try_however_many_batches_wait(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        await batches.store([items(9)])
    tried: list[str] = []

    async def counted(redis: Redis, root: str, ask: EnqueueItemsAsk, blob: bytes) -> object:
        tried.append(ask.batch)
        return await enqueue(redis, root, ask, blob)

    enqueue = functions.enqueue_items
    monkeypatch.setattr(functions, "enqueue_items", counted)
    assert await batches.feed() == 8
    tried.clear()
    assert await batches.feed() == 0
    assert len(tried) == 1
    # The batch whose turn it is keeps it.
    await batches.complete(8)
    await batches.feed()
    assert tried[1] == tried[0]


async def test_batches_that_lack_credits_are_tried_some_at_a_time_in_turn(
    batches: Batches,
) -> None:
    every = {await batches.store([items(1, hold=5_000)]) for _ in range(20)}
    for _ in range(2):
        assert await batches.feed() == 0
    reasons = [(await batches.record(batch)).get("reason") for batch in every]
    assert reasons == ["credits"] * 20


async def test_without_credits_a_batch_waits_for_its_open_items_and_then_pauses(
    batches: Batches,
) -> None:
    batch = await batches.store([items(6, hold=400)])
    assert await batches.feed() == 2
    assert (await batches.record(batch))["state"] == "running"
    await batches.complete(cost=400)
    assert await batches.feed() == 0
    record = await batches.record(batch)
    assert (record["state"], record["reason"]) == ("paused", "credits")
    await batches.queue.grant(400)
    assert await batches.feed() == 1
    record = await batches.record(batch)
    assert (record["state"], record.get("reason")) == ("running", None)


async def test_a_batch_pauses_at_its_own_limit_until_it_is_raised(batches: Batches) -> None:
    batch = await batches.store([items(6)], max_credits=25)
    assert await batches.feed() == 2
    await batches.complete(cost=10)
    assert await batches.feed() == 0
    record = await batches.record(batch)
    assert (record["state"], record["reason"], record["used"]) == ("paused", "max_credits", "20")
    assert await batches.feed() == 0
    assert await batches.resume(batch, 1_000) == "running"
    assert await batches.feed() == 4


async def test_a_batch_pauses_while_memory_is_short(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await batches.store([items(6)])
    monkeypatch.setattr(partition_load, "has_memory", lambda *_: False)
    assert await batches.feed() == 0
    assert (await batches.record(batch))["reason"] == "memory"
    monkeypatch.undo()
    assert await batches.feed() == 6


async def test_a_paused_batch_feeds_nothing_and_its_open_items_end(batches: Batches) -> None:
    batch = await batches.store([items(12)])
    await batches.feed()
    assert await batches.pause(batch) == "paused"
    settled = await batches.complete()
    assert not any(one.wants_feed for one in settled)
    assert await batches.feed() == 0
    record = await batches.record(batch)
    assert (record["state"], record["reason"], record["completed"]) == ("paused", "user", "8")
    assert await batches.resume(batch) == "running"
    await batches.run(batch)
    assert await batches.pause(batch) == BatchConflict("completed")
    assert await batches.resume(batch) == BatchConflict("completed")
    assert await batches.pause("x" * 23) is None


async def test_a_stop_counts_what_waits_at_once_and_ends_the_rest(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(40), 10))
    await batches.feed()
    running = (await batches.queue.claim(1))[0]
    stopped = await batches.stop(batch, "cancelled")
    assert stopped == functions.StoppedBatch("running", 8, is_stopping=True)
    assert await batches.counts(batch, "cancelled") == [32]
    assert await batches.stop(batch, "cancelled") == stopped
    assert await batches.end_open(batch) == 1
    assert await batches.feed() == 0
    assert await batches.queue.settle(running, stage="cancelled") is not None
    record = await batches.record(batch)
    assert (record["state"], record["cancelled"], record["unfed"]) == ("cancelled", "40", "1")
    assert (await batches.queue.credit_totals()).balance == 1_000
    await _pack_all(batches, batch)
    results = [one for chunk in range(4) for one in await batches.results(batch, chunk)]
    assert [one and (one.custom_id, one.state) for one in results] == [
        (f"c{line}", "cancelled") for line in range(1, 41)
    ]


async def _pack_all(batches: Batches, batch: str) -> None:
    await batches.pack()
    while (unfed := (await batches.record(batch)).get("unfed")) is not None:
        chunk = functions.EndedChunk("ann", batch, int(unfed))
        assert await packer.pack(batches.redis, batches.root, chunk)
    left: list[bytes] = await batches.redis.call(
        "KEYS", keys.BATCH_ITEMS(batches.root, "ann", batch, "*")
    )
    assert left == []


async def test_a_batch_of_which_nothing_ran_ends_with_its_stop(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(4), 2))
    assert await batches.stop(batch, "cancelled") == functions.StoppedBatch(
        "cancelled", 0, is_stopping=False
    )
    await _pack_all(batches, batch)


async def test_a_deadline_expires_what_is_left(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(12), 6))
    await batches.feed()
    await batches.complete(2)
    early = await batches.stop(batch, "expired")
    assert early == functions.StoppedBatch("running", 6, is_stopping=False)
    name = keys.BATCH(batches.root, "ann", batch)
    await batches.redis.call("HSET", name, "deadline", 1)
    for one in await batches.queue.claim(1):
        where = keys.GENERATION(batches.root, "ann", one.id)
        await batches.redis.call("HSET", where, "deadline", 1)
    assert await batches.stop(batch, "expired") == functions.StoppedBatch(
        "running", 6, is_stopping=True
    )
    await batches.redis.call("HSET", name, "deadline", 1)
    for index in range(3, 8):
        where = keys.GENERATION(batches.root, "ann", f"{batch}-{index}")
        await batches.redis.call("HSET", where, "deadline", 1)
    assert await batches.end_open(batch) == 0
    record = await batches.record(batch)
    assert (record["state"], record["expired"], record["completed"]) == ("expired", "10", "2")
    await _pack_all(batches, batch)


async def test_a_cancelled_item_is_counted_and_packed(batches: Batches) -> None:
    batch = await batches.store([items(3)])
    await batches.feed()
    ticket = Ticket("ann", f"{batch}-1", f"{batch}-1")
    assert await batches.queue.cancel(ticket) == Cancelled(10)
    await batches.complete()
    assert await batches.counts(batch, "completed", "cancelled") == [2, 1]
    assert (await batches.record(batch))["state"] == "completed"
    assert await batches.pack() == 1
    [_, cancelled, _] = await batches.results(batch)
    assert cancelled is not None
    assert cancelled.state == "cancelled"
    assert await batches.queue.find("ann", ticket.id) is None


async def test_an_item_whose_worker_crashes_too_often_fails(batches: Batches) -> None:
    batch = await batches.store([items(1)])
    await batches.feed()
    for _ in range(3):
        [claimed] = await batches.queue.claim(1)
        lease = keys.LEASES(batches.root)
        await batches.redis.call("ZADD", lease, 1, f"ann:{claimed.id}")
        await batches.queue.reap(crashes_max=1)
        if (await batches.record(batch))["state"] != "running":
            break
    assert (await batches.record(batch))["state"] == "failed"
    await batches.pack()
    assert await batches.queue.dead() == []


async def _run_with_failures(batches: Batches, batch: str, failing: Sequence[int]) -> None:
    while (await batches.record(batch))["state"] == "running":
        await batches.feed()
        for claimed in await batches.queue.claim(100):
            if int(claimed.id.split(batch)[1].split("-")[1]) in failing:
                await batches.queue.fail(claimed, _DOWN)
            else:
                await batches.queue.complete(claimed, f"answer {claimed.id}", cost=3)
        await batches.pack()


async def test_a_retry_runs_failures_again_into_the_same_batch(batches: Batches) -> None:
    lines = [*items(11), item(12, fault="no")]
    batch = await batches.store(in_chunks(lines, 5))
    await _run_with_failures(batches, batch, (1, 3, 7))
    assert await batches.counts(batch, "completed", "failed", "seq") == [8, 4, 12]
    assert await batches.retry(batch) == "running"
    assert await batches.retry(batch) == "running"
    assert await batches.counts(batch, "runs", "failed") == [2, 4]
    assert await batches.feed() == 3
    assert await batches.counts(batch, "failed", "open") == [1, 3]
    await _run_with_failures(batches, batch, (7,))
    record = await batches.record(batch)
    assert record["state"] == "completed"
    assert await batches.counts(batch, "completed", "failed", "seq") == [10, 2, 15]
    assert await batches.left_of(batch) == set()
    results = [one for chunk in range(3) for one in await batches.results(batch, chunk)]
    assert [one.state for one in results if one] == [
        "failed" if index in {7, 11} else "completed" for index in range(12)
    ]
    again = results[3]
    assert again is not None
    assert decode_assistant(again.answer).content == f"answer {batch}-3-2"
    assert again.seq > 12
    # A third run takes what failed in the second one, and nothing that is wrong.
    assert await batches.retry(batch) == "running"
    assert await batches.feed() == 1
    await batches.complete()
    assert (await batches.record(batch))["state"] == "completed"
    assert await batches.counts(batch, "completed", "failed") == [11, 1]
    await batches.pack()


async def test_what_cannot_be_retried(batches: Batches) -> None:
    batch = await batches.store([items(2)])
    assert await batches.retry(batch) == BatchConflict("running")
    await batches.run(batch)
    assert await batches.retry(batch) == "completed"
    other = await batches.store([items(1)])
    await _run_with_failures(batches, other, (0,))
    assert await batches.retry(other, open_max=0) == functions.RetryQuotaReached("open_batches", 0)
    stopped = await batches.store([items(1)])
    await batches.stop(stopped, "cancelled")
    assert await batches.retry(stopped) == BatchConflict("cancelled")
    await _pack_all(batches, stopped)


async def test_each_retry_has_as_much_time_as_the_batch_had_and_there_are_few(
    batches: Batches,
) -> None:
    batch = await batches.store([items(1)])
    name, time_ms = keys.BATCH(batches.root, "ann", batch), 60_000
    deadline = int((await batches.record(batch))["deadline"])
    await batches.redis.call("HSET", name, "started", deadline - time_ms)
    for run in (1, 2, 3):
        await _run_with_failures(batches, batch, (0,))
        if run > 1:
            # As if the batch had been retried long after it began.
            await batches.redis.call("HSET", name, "started", 1_000)
        assert await batches.retry(batch) == "running"
        [seconds, _] = await batches.redis.call("TIME")
        left = int((await batches.record(batch))["deadline"]) - int(seconds) * 1000
        assert time_ms - 2_000 < left < time_ms + 2_000
        await batches.feed()
    await _run_with_failures(batches, batch, (0,))
    await batches.redis.call("HSET", name, "runs", 100)
    assert await batches.retry(batch) == functions.RetryQuotaReached("batch_runs", 100)


async def test_the_end_of_an_item_counts_its_copies_whatever_their_number(
    batches: Batches,
) -> None:
    copied = [Copy("x", 3, 0), *(Copy(f"{line}", line, 1) for line in range(4, 1_000))]
    batch = await batches.store([items(2)], copies=copied)
    await batches.feed()
    first, second = await batches.queue.claim(2)
    await batches.queue.fail(second, _DOWN)
    assert await batches.counts(batch, "failed", "copies_failed", "seq") == [1, 996, 1]
    await batches.queue.complete(first, "a", cost=3)
    names = ("completed", "copies_completed", "copies_failed", "total", "copies", "seq", "used")
    assert await batches.counts(batch, *names) == [1, 1, 996, 2, 997, 2, 3]
    await batches.pack()
    await batches.retry(batch)
    await batches.feed()
    assert await batches.counts(batch, "failed", "copies_failed") == [0, 996]
    await batches.run(batch)
    assert await batches.counts(batch, *names) == [2, 997, 0, 2, 997, 3, 6]


async def test_counts_of_copies_are_in_parts(batches: Batches) -> None:
    far = 65_536 + 9
    plain = items(1)[0]
    # Only the last item is fed: what is before it counts as passed.
    chunks = [[plain], [plain]]
    batch = await batches.store(chunks, copies=[Copy("x", far + 2, far)])
    starts = struct.pack(">II", 0, far) + struct.pack(">I", far + 1) * 5
    where = keys.BATCH(batches.root, "ann", batch)
    await batches.redis.call("SET", keys.BATCH_STARTS(batches.root, "ann", batch), starts)
    await batches.redis.call("HSET", where, "total", far + 1, "position", far, "failed", far)
    await batches.feed()
    await batches.complete()
    assert await batches.counts(batch, "completed", "copies_completed") == [1, 1]


async def test_copies_that_an_older_process_ended_are_counted_as_their_originals(
    batches: Batches, older: RedisFunctions
) -> None:
    copied = [Copy("x", 3, 0), Copy("y", 4, 1), Copy("z", 5, 1)]
    batch = await batches.store([items(2)], copies=copied)
    await batches.feed()
    await older.cancel(Ticket("ann", f"{batch}-0", f"{batch}-0"))
    await batches.adopt(batch)
    assert await batches.counts(batch, "cancelled", "copies_cancelled") == [1, 1]
    await batches.complete()
    assert await batches.counts(batch, "completed", "copies_completed") == [1, 2]
    await batches.pack()


async def test_a_retry_waits_until_the_failures_are_packed(batches: Batches) -> None:
    batch = await batches.store([items(1)])
    await batches.feed()
    await batches.queue.fail(await batches.queue.claim_one(), _DOWN)
    assert await batches.retry(batch) == "running"
    assert await batches.feed() == 0
    await batches.pack()
    assert await batches.feed() == 1
    await batches.complete()
    await batches.pack()
    assert (await batches.record(batch))["state"] == "completed"


async def test_a_stop_during_a_retry_leaves_the_other_failures(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(20), 20))
    await _run_with_failures(batches, batch, range(20))
    assert await batches.retry(batch) == "running"
    assert await batches.feed() == 8
    assert (await batches.stop(batch, "cancelled")) is not None
    assert await batches.end_open(batch) == 0
    record = await batches.record(batch)
    assert (record["state"], record["failed"], record["cancelled"]) == ("cancelled", "12", "8")
    assert await batches.pack() == 1
    states = [one.state for one in await batches.results(batch) if one]
    assert states == ["cancelled"] * 8 + ["failed"] * 12


async def test_the_dead_letter_of_an_item_is_retried_with_its_batch_only(batches: Batches) -> None:
    await batches.store([items(2)])
    await batches.feed()
    await batches.queue.fail(await batches.queue.claim_one(), _DOWN)
    [letter] = await batches.queue.dead()
    ticket = Ticket("ann", letter.id, letter.id)
    assert await batches.queue.revive(ticket) == RetryRefused("in_batch")
    await batches.complete()
    await batches.pack()
    assert await batches.queue.dead() == []


async def test_packing_twice_changes_nothing(batches: Batches) -> None:
    batch = await batches.store([items(3)])
    await batches.feed()
    await batches.complete()
    chunk = functions.EndedChunk("ann", batch, 0)
    assert await packer.pack(batches.redis, batches.root, chunk)
    stored = await batches.results(batch), await batches.record(batch)
    assert await packer.pack(batches.redis, batches.root, chunk)
    assert (await batches.results(batch), await batches.record(batch)) == stored
    assert await batches.pack() == 0


async def test_a_chunk_that_changed_is_not_packed(batches: Batches) -> None:
    batch = await batches.store([items(2)])
    await batches.feed()
    await batches.complete()
    ask = functions.PackChunkAsk(account="ann", batch=batch, chunk=0, seqs=[(0, 1)])
    assert await functions.pack_chunk(batches.redis, batches.root, ask, b"x") == "changed"
    assert await batches.pack() == 1
    gone = functions.PackChunkAsk(account="ann", batch="y" * 23, chunk=0, seqs=[])
    assert await functions.pack_chunk(batches.redis, batches.root, gone, b"x") == "gone"


async def test_a_batch_is_deleted_with_what_is_not_packed(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(8), 2))
    await batches.run(batch)
    other = await batches.store(in_chunks(items(8), 2))
    await batches.feed()
    await batches.complete()
    assert (await batches.record(other))["unbooked"] == "24"
    for each in (batch, other):
        ask = functions.DeleteBatchAsk(account="ann", batch=each)
        assert await functions.delete_batch(batches.redis, batches.root, ask) == "deleting"
        pieces = functions.DeleteBatchPiecesAsk(account="ann", batch=each)
        while await functions.delete_batch_pieces(batches.redis, batches.root, pieces):
            pass
        left: list[bytes] = await batches.redis.call("KEYS", f"{batches.root}*{each}*")
        assert [name for name in left if b"batch-chunks-to-pack" not in name] == []
    await batches.pack_deleted()
    assert (await batches.queue.credit_totals()).settled == 48


async def test_a_suspended_item_keeps_its_chunk_open(batches: Batches) -> None:
    await batches.store([items(2)])
    await batches.feed()
    first, second = await batches.queue.claim(2)
    assert await batches.queue.suspend(first, 1, text="May I?") == "suspended"
    await batches.queue.complete(second)
    assert await batches.pack() == 0
    assert await batches.queue.resume(Ticket("ann", first.id, first.id)) == "resumed"
    await batches.complete()
    assert await batches.pack() == 1


@pytest.mark.parametrize("field", ["seq", "open", "unbooked"])
async def test_a_damaged_batch_does_not_stop_the_settling_of_its_items(
    batches: Batches, field: str
) -> None:
    batch = await batches.store([items(10)])
    await batches.feed()
    name = keys.BATCH(batches.root, "ann", batch)
    await batches.redis.call("HSET", name, field, "many")
    assert len(await batches.complete()) == 8
    record = await batches.record(batch)
    assert (record["state"], record["damaged"]) == ("failed", "1")
    totals = await batches.queue.credit_totals()
    assert (totals.held, totals.settled) == (0, 24)
    damaged = await batches.redis.call("ZRANGE", keys.DAMAGED(batches.root), 0, -1)
    assert damaged == [f"ann:{batch}".encode()]
    log = await account_log.page(batches.redis, batches.root, "ann", after=None, limit=9)
    assert [(each.type, each.subject) for each in log.events] == [("batch.failed", batch)]
    assert await batches.feed() == 0
    # Its record is what is damaged: the invariants read numbers.
    await batches.redis.call("HDEL", name, field)


@pytest.mark.parametrize("family", [keys.BATCH, keys.BATCH_WINDOW, keys.BATCH_ORDER])
async def test_a_key_of_another_type_does_not_stop_the_settling_of_items(
    batches: Batches, family: keys.Key
) -> None:
    batch = await batches.store([items(10)])
    await batches.feed()
    where = family(batches.root, "ann", batch)
    await batches.redis.call("DEL", where)
    await batches.redis.call("RPUSH", where, "x")
    assert len(await batches.complete()) == 8
    assert (await batches.queue.credit_totals()).settled == 24
    assert await batches.feed() == 0
    await batches.redis.call("DEL", where)
    if family is keys.BATCH:
        totals = keys.ACCOUNT_TOTALS(batches.root, "ann")
        await batches.redis.call("HDEL", totals, "stored_batches")


@pytest.mark.parametrize(
    "family", [keys.BATCH_CHUNK, keys.BATCH_ITEMS, keys.BATCH_RESULTS, keys.BATCH_STARTS]
)
async def test_a_chunk_of_another_type_ends_its_batch_and_holds_up_no_other(
    batches: Batches, family: keys.Key
) -> None:
    damaged = await batches.store([items(2)])
    sound = await batches.store([items(2)])
    await batches.feed()
    await batches.complete()
    chunk = () if family is keys.BATCH_STARTS else (0,)
    where = family(batches.root, "ann", damaged, *chunk)
    stored = await batches.redis.call("DUMP", where)
    await batches.redis.call("DEL", where)
    await batches.redis.call("ZADD", where, 1, "x")
    work = BatchWork(batches.redis, batches.settings, SystemClock())
    await work.pack_ended(batches.root)
    assert (await batches.record(damaged))["state"] == "failed"
    assert (await batches.record(damaged))["damaged"] == "1"
    assert len(await batches.results(sound)) == 2
    assert not await batches.redis.call("EXISTS", keys.BATCH_CHUNKS_TO_PACK(batches.root))
    await batches.redis.call("DEL", where)
    if stored is not None:
        await batches.redis.call("RESTORE", where, 0, stored)


async def test_an_answer_of_another_type_is_lost_alone(batches: Batches) -> None:
    batch = await batches.store([items(2)])
    await batches.feed()
    await batches.complete()
    where = keys.TURNS(batches.root, "ann", f"{batch}-0", 0)
    await batches.redis.call("DEL", where)
    await batches.redis.call("RPUSH", where, "x")
    await batches.pack()
    lost, kept = await batches.results(batch)
    assert lost is not None
    assert kept is not None
    assert (lost.answer, bool(lost.fault), bool(kept.answer)) == (b"", True, True)


async def test_a_damaged_item_counts_as_failed(batches: Batches) -> None:
    batch = await batches.store([items(2)])
    await batches.feed()
    name = keys.GENERATION(batches.root, "ann", f"{batch}-0")
    await batches.redis.call("HSET", name, "attempt", "many")
    await batches.complete()
    assert await batches.counts(batch, "completed", "failed", "open") == [1, 1, 0]
    assert (await batches.record(batch))["state"] == "completed"
    assert await batches.pack() == 1


async def test_an_item_whose_record_is_gone_is_found_and_fails(batches: Batches) -> None:
    batch = await batches.store(in_chunks(items(4), 2))
    await batches.feed()
    lost = f"{batch}-3"
    await batches.redis.call("DEL", keys.GENERATION(batches.root, "ann", lost))
    await batches.complete()
    await batches.adopt(batch)
    assert await batches.counts(batch, "completed", "failed", "open") == [3, 1, 0]
    assert await batches.pack() == 2
    # Its hold went with its record.
    await batches.redis.call("HINCRBY", keys.ACCOUNT_TOTALS(batches.root, "ann"), "held", -10)
    await batches.redis.call("HINCRBY", keys.ACCOUNT_TOTALS(batches.root, "ann"), "balance", 10)


async def test_the_accounts_log_has_each_end_and_pause_of_a_batch_and_none_of_its_items(
    batches: Batches,
) -> None:
    batch = await batches.store(in_chunks(items(4), 2))
    await batches.redis.call(
        "HSET", keys.BATCH(batches.root, "ann", batch), "webhook", "https://example.com/hook"
    )
    ask = PauseBatchAsk(account="ann", batch=batch)
    for _ in range(2):
        await functions.pause_batch(batches.redis, batches.root, ask)
    resumed = ResumeBatchAsk(account="ann", batch=batch)
    await functions.resume_batch(batches.redis, batches.root, resumed)
    await batches.run(batch)
    logged = await account_log.page(batches.redis, batches.root, "ann", after=None, limit=9)
    assert [(each.type, each.subject, each.actor) for each in logged.events] == [
        ("batch.paused", batch, "key-1"),
        ("batch.completed", batch, "key-1"),
    ]
    assert logged.events[0].more == {"webhook_url": "https://example.com/hook"}
    assert logged.events[0].path == f"/api/v1/batches/{batch}"


_OLDER = f"{library.NAME}older"
_FINDS_ITEM = "generation.batch and batches.find_item(root, account, id, generation)"


class _OlderRedis(Redis):
    """A connection of a process whose functions know no batches."""

    @override
    async def call(self, *command: Argument, repeat: bool = True) -> Reply:
        verb, name, *rest = command
        if str(verb).startswith("FCALL"):
            command = (verb, str(name).replace(library.NAME, _OLDER), *rest)
        return await super().call(*command, repeat=repeat)


@pytest.fixture
async def older(
    queue: RedisFunctions, redis_settings: RedisSettings
) -> AsyncIterator[RedisFunctions]:
    """Return the functions of a process that knows no batches."""
    text = library.TEXT.replace(library.NAME, _OLDER)
    assert text.count(_FINDS_ITEM) == 1
    await queue.redis.call("FUNCTION", "LOAD", "REPLACE", text.replace(_FINDS_ITEM, "nil"))
    redis = _OlderRedis(redis_settings)
    yield RedisFunctions(redis, redis_settings, redis_settings.partitions - 1)
    await redis.close()
    await queue.redis.call("FUNCTION", "DELETE", _OLDER)


async def test_ends_by_a_process_that_knows_no_batches_are_found_and_counted(
    batches: Batches, older: RedisFunctions
) -> None:
    batch = await batches.store([items(4)])
    await batches.feed()
    assert await older.claim(9, wire=TURN_WIRE) == []
    cancelled, expired, crashed = (Ticket("ann", f"{batch}-{i}", f"{batch}-{i}") for i in range(3))
    assert await older.cancel(cancelled) == Cancelled(10)
    deadlines, leases = keys.DEADLINES(batches.root), keys.LEASES(batches.root)
    await batches.redis.call("ZADD", deadlines, "XX", 1, f"ann:{expired.id}")
    claimed = await batches.queue.claim(1)
    while claimed[0].id != crashed.id:
        claimed = await batches.queue.claim(1)
    await batches.redis.call("ZADD", leases, 1, f"ann:{crashed.id}")
    await older.reap(crashes_max=0)
    assert await batches.counts(batch, "open", "seq") == [4, 0]
    await batches.adopt(batch)
    assert await batches.counts(batch, "open", "seq", "cancelled", "expired", "failed") == [
        1, 3, 1, 1, 1,
    ]  # fmt: skip
    await batches.adopt(batch)
    assert await batches.counts(batch, "open", "seq") == [1, 3]
    await batches.complete()
    assert (await batches.record(batch))["state"] == "completed"
    assert await batches.pack() == 1
    states = [one.state for one in await batches.results(batch) if one]
    assert states == ["cancelled", "expired", "failed", "completed"]


async def test_a_charge_by_a_process_that_knows_no_batches_is_booked_once(
    batches: Batches, older: RedisFunctions
) -> None:
    batch = await batches.store([items(2)])
    await batches.feed()
    [claimed] = await batches.queue.claim(1)
    await older.append(claimed, 1, "So")
    assert await older.settle(claimed, seq=2, cost=7, text="So") is not None
    await batches.adopt(batch)
    await batches.complete()
    assert await batches.counts(batch, "completed", "used", "unbooked") == [2, 10, 3]
    assert await batches.pack() == 1
    assert (await batches.queue.credit_totals()).settled == 10


async def test_paused_batches_are_passed_over_at_little_cost(batches: Batches) -> None:
    """An account may have 500 of them, and the server serves nobody meanwhile."""
    paused = [await batches.store([items(1)]) for _ in range(4)]
    for batch in paused:
        await batches.pause(batch)
    last = await batches.store([items(1)])
    before = (await batches.redis.call("INFO", "commandstats")).decode()
    plan = await functions.plan_feed(batches.redis, batches.root, PlanFeedAsk(account="ann"))
    assert isinstance(plan, functions.FeedPlan)
    assert plan.batch == last
    after = (await batches.redis.call("INFO", "commandstats")).decode()
    assert _calls(after, "hgetall") - _calls(before, "hgetall") == 1
