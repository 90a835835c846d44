"""Lets the next items of an account's batches enter the queue, until its window is full.

Owns the size of the window and the limits of the account, as this process knows them for a few
seconds. A worker calls it when a settlement asks for items, and an API process after an upload or a
resume; two at the same time do no harm, since Redis refuses a position that has moved.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

import msgspec

from shared import fairness
from shared.clock import Clock
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import (
    ChunkToPack,
    DamagedBatch,
    Enqueued,
    EnqueueItemsAsk,
    FeedPlan,
    PlanFeedAsk,
    QueueEntry,
)
from shared.settings import Settings
from shared.stores import fleet, partition_load
from shared.telemetry import logs
from shared.tiers import TierName
from shared.wire.account import Account
from shared.wire.batch import BatchItem, ItemResult, unpack_items, unpack_results, window_size
from shared.wire.submission import BATCH_WIRE

# How long the tier of an account and the slots of the fleet are taken to be the same.
_KNOWN_SECONDS: Final = 5.0
_LOAD_SECONDS: Final = 1.0
_ACCOUNTS_KNOWN_MAX: Final = 4_096
# Unpacking more takes longer than the loop should be held.
_INLINE_BYTES_MAX: Final = 32_768
# Other feeders of the same account were faster so often: they fill the window.
_MOVED_MAX: Final = 8
T = TypeVar("T")
# Batches that lack credits, or wait for something else of their own; the next call tries others.
_TRIED_MAX: Final = 16
# What keeps all batches of an account waiting.
_HOLDS_UP_ALL: Final = frozenset({"window", "unfinished", "full", "memory"})
_decode_account = msgspec.msgpack.Decoder(Account).decode


class _Next(NamedTuple):
    """An item that enters the queue next; one without a submission ends as failed."""

    entry: QueueEntry
    submission: bytes = b""


class _Fed(msgspec.Struct, frozen=True):
    """How many items entered the queue from one chunk, and what follows."""

    count: int = 0
    is_full: bool = False
    is_stuck: bool = False
    has_moved: bool = False


class BatchFeeder:
    """Feeds the queue from the batches of any account."""

    def __init__(self, redis: Connection, settings: Settings, clock: Clock) -> None:
        self._redis = redis
        self._settings = settings
        self._clock = clock
        self._tiers: dict[str, tuple[float, TierName]] = {}
        self._slots: tuple[float, int] | None = None
        self._loads: dict[str, tuple[float, partition_load.PartitionLoad]] = {}

    async def feed(self, root: str, account: str) -> int:
        """Let items enter the queue; return how many did."""
        tried: list[str] = []
        total = moved = 0
        while moved < _MOVED_MAX and len(tried) < _TRIED_MAX:
            plan = await functions.plan_feed(
                self._redis, root, PlanFeedAsk(account=account, skip=tried)
            )
            if plan is None:
                break
            if isinstance(plan, ChunkToPack):
                tried.append(plan.batch)
                continue
            if isinstance(plan, DamagedBatch):
                # The call that would take its items finds the damage, and ends the batch.
                plan = FeedPlan(plan.batch, -1, 1, 0, -1, 0, 0, None, None)
            fed = await self._feed_chunk(root, account, plan)
            total, moved = total + fed.count, moved + fed.has_moved
            if fed.is_full:
                break
            if fed.is_stuck:
                tried.append(plan.batch)
        return total

    async def _feed_chunk(self, root: str, account: str, plan: FeedPlan) -> _Fed:
        waiting = await self._entries(account, plan)
        terms = await self._terms(root, account, plan)
        count, position = 0, plan.position
        while True:
            coming = [each for each in waiting if each.entry.index >= position]
            taken = coming[: functions.ITEMS_PER_CALL]
            is_last = len(taken) == len(coming)
            ask = msgspec.structs.replace(
                terms,
                position=position,
                next=plan.end if is_last else coming[len(taken)].entry.index,
                entries=[each.entry for each in taken],
            )
            submissions = b"".join(each.submission for each in taken)
            reply = await functions.enqueue_items(self._redis, root, ask, submissions)
            if not isinstance(reply, Enqueued):
                has_moved = reply.outcome == "moved"
                is_full = reply.why in _HOLDS_UP_ALL
                return _Fed(count, is_full=is_full, is_stuck=not has_moved, has_moved=has_moved)
            count, position = count + reply.count, reply.position
            if reply.is_full or position >= plan.end:
                return _Fed(count, is_full=reply.is_full)

    async def _entries(self, account: str, plan: FeedPlan) -> list[_Next]:
        """Return what is left of a chunk; of a retry, its failures."""
        try:
            if plan.results is not None:
                results = await _unpacked(unpack_results, plan.results)
                return [
                    _next(index, result.item)
                    for index, result in enumerate(results, plan.first)
                    if index >= plan.position and result is not None and _runs_again(result, plan)
                ]
            if plan.items is not None:
                items = await _unpacked(unpack_items, plan.items)
                first = plan.position - plan.first
                return [
                    _next(index, item) for index, item in enumerate(items[first:], plan.position)
                ]
        except msgspec.MsgspecError as error:
            logs.logger().error(
                "a chunk of a batch cannot be read",
                account=account,
                batch=plan.batch,
                chunk=plan.chunk,
                fault=str(error),
            )
        if plan.run > 1:
            return []
        return [_next(index, None) for index in range(plan.position, plan.end)]

    async def _terms(self, root: str, account: str, plan: FeedPlan) -> EnqueueItemsAsk:
        limits = self._settings.limits
        tier_name = await self._tier(account)
        tier = limits.of(tier_name)
        running_max = max(1, int(tier.running_max * fairness.BATCH_SHARE))
        load = await self._load(root)
        return EnqueueItemsAsk(
            account=account,
            batch=plan.batch,
            position=plan.position,
            next=plan.end,
            run=plan.run,
            chunk=plan.chunk,
            chunk_end=plan.end,
            entries=(),
            window=window_size(running_max, await self._batch_slots(), tier.unfinished_max),
            unfinished_max=tier.unfinished_max,
            total_max=limits.unfinished_total,
            running_max=tier.running_max,
            stride=fairness.STRIDE // tier.weight,
            keep_ms=self._settings.retention.batch_seconds * 1000,
            is_memory_short=not partition_load.has_memory(load, limits, "batch", tier_name),
        )

    async def _tier(self, account: str) -> TierName:
        now = self._clock.monotonic()
        known = self._tiers.get(account)
        if known is not None and now - known[0] < _KNOWN_SECONDS:
            return known[1]
        root = keys.system_root(self._settings.redis)
        record: bytes | None = await self._redis.call("GET", keys.ACCOUNT(root, account))
        tier: TierName = _decode_account(record).tier if record else "free"
        if len(self._tiers) >= _ACCOUNTS_KNOWN_MAX:
            self._tiers.clear()
        self._tiers[account] = (now, tier)
        return tier

    async def _batch_slots(self) -> int:
        now = self._clock.monotonic()
        if self._slots is None or now - self._slots[0] >= _KNOWN_SECONDS:
            live = await fleet.load(self._redis, self._settings.redis)
            self._slots = now, int(live.slots * self._settings.worker.batch_share)
        return self._slots[1]

    async def _load(self, root: str) -> partition_load.PartitionLoad:
        now = self._clock.monotonic()
        known = self._loads.get(root)
        if known is None or now - known[0] >= _LOAD_SECONDS:
            known = now, await partition_load.read_load(self._redis, root)
            self._loads[root] = known
        return known[1]


async def _unpacked(unpack: Callable[[bytes], T], stored: bytes) -> T:
    if len(stored) > _INLINE_BYTES_MAX:
        return await asyncio.to_thread(unpack, stored)
    return unpack(stored)


def _runs_again(result: ItemResult, plan: FeedPlan) -> bool:
    is_old = result.seq <= plan.retried_seq
    return is_old and result.state == "failed" and result.item is not None


def _next(index: int, item: BatchItem | None) -> _Next:
    if item is None or item.fault:
        return _Next(QueueEntry(index=index, fault=True))
    entry = QueueEntry(
        index=index,
        content=item.content,
        model=item.model,
        wire=max(item.wire, BATCH_WIRE),
        hold=item.hold,
        size=len(item.submission),
        metadata=item.metadata,
        project=item.project,
        media=item.media or None,
    )
    return _Next(entry, item.submission)
