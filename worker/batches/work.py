"""A worker's work for batches beside their items: it feeds the queue, packs chunks, ends stops.

Owns that one worker does each thing once at a time: for each account one feeder, for each partition
one packer, for each batch one `advance`. A settlement asks for work in its reply; where that reply
or this process was lost, `chores/batches.py` finds what is due. Errors are logged, never raised: no
caller waits for the work.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

from shared.batches.feed import BatchFeeder
from shared.clock import Clock
from shared.errors import PolluxError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import (
    AdoptItemsAsk,
    BatchUnderWay,
    Claimed,
    EndedChunk,
    EndOpenItemsAsk,
    KeepTimes,
    Settled,
    StopBatchAsk,
    TakeEndedChunksAsk,
)
from shared.settings import Settings
from shared.telemetry import logs
from worker.batches import packer

_CHUNKS_AT_ONCE: Final = 4
_UNFED_AT_ONCE: Final = 256
# Longer than packing that many takes; packing one twice does no harm.
_PACK_LEASE_MS: Final = 3_000


class BatchWork:
    """The work for batches of one worker; started in the background, one at a time of a kind."""

    def __init__(self, redis: Connection, settings: Settings, clock: Clock) -> None:
        self._redis = redis
        self._settings = settings
        self.feeder = BatchFeeder(redis, settings, clock)
        self._running: dict[Hashable, asyncio.Task[None]] = {}
        self._again: set[Hashable] = set()

    def note_settled(self, claimed: Claimed, settled: Settled) -> None:
        """Begin what a settlement asks for."""
        if settled.wants_feed:
            self._begin(
                ("feed", claimed.root, claimed.account),
                lambda: self._feed(claimed.root, claimed.account),
            )
        if settled.wants_pack:
            self._begin(("pack", claimed.root), lambda: self.pack_ended(claimed.root))

    async def advance(self, root: str, account: str, batch: str) -> None:
        """Do all that is due for a batch: count, stop, feed, and replace unused input."""
        under_way = await self._adopt(root, account, batch)
        if under_way is None:
            return
        if under_way.is_past_deadline and not under_way.is_stopping:
            ask = StopBatchAsk(account=account, batch=batch, stop="expired")
            await functions.stop_batch(self._redis, root, ask)
            under_way = await self._adopt(root, account, batch)
        if under_way is not None and under_way.is_stopping:
            await self.end_open(root, account, batch)
            under_way = await self._adopt(root, account, batch)
        if under_way is not None and under_way.may_feed:
            await self._feed(root, account)
        await self.pack_ended(root)
        if under_way is not None and under_way.unfed is not None:
            await self._pack_unfed(root, account, batch, under_way.unfed)

    async def end_open(self, root: str, account: str, batch: str) -> None:
        """End the open items of a stopped batch, or ask their workers to stop."""
        cursor: str | None = "0"
        while cursor is not None:
            ask = EndOpenItemsAsk(
                account=account,
                batch=batch,
                cursor=cursor,
                keep=KeepTimes.of(self._settings.retention),
                channels=keys.worker_channels(self._settings.redis),
            )
            cursor = (await functions.end_open_items(self._redis, root, ask)).cursor

    async def pack_ended(self, root: str) -> None:
        """Pack the chunks of a partition whose items have all ended."""
        ask = TakeEndedChunksAsk(count=_CHUNKS_AT_ONCE, lease_ms=_PACK_LEASE_MS)
        while chunks := await functions.take_ended_chunks(self._redis, root, ask):
            for chunk in chunks:
                await packer.pack(self._redis, root, chunk)

    async def close(self) -> None:
        """Cancel what is under way; another worker does it."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, root: str, account: str) -> None:
        await self.feeder.feed(root, account)

    async def _adopt(self, root: str, account: str, batch: str) -> BatchUnderWay | None:
        cursor: str | None = "0"
        under_way = None
        while cursor is not None:
            ask = AdoptItemsAsk(account=account, batch=batch, cursor=cursor)
            under_way = await functions.adopt_items(self._redis, root, ask)
            cursor = under_way.cursor if under_way is not None else None
        return under_way

    async def _pack_unfed(self, root: str, account: str, batch: str, chunk: int) -> None:
        """Replace the input of chunks of which nothing entered the queue; the next call goes on.

        Others' batches must not wait for a large one.
        """
        for _ in range(_UNFED_AT_ONCE):
            if not await packer.pack(self._redis, root, EndedChunk(account, batch, chunk)):
                return
            under_way = await self._adopt(root, account, batch)
            if under_way is None or under_way.unfed is None or under_way.unfed == chunk:
                return
            chunk = under_way.unfed

    def _begin(self, name: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        if name in self._running:
            self._again.add(name)
            return
        task = asyncio.create_task(self._repeat(name, work))
        self._running[name] = task

    async def _repeat(self, name: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, and once more if it was asked for meanwhile."""
        try:
            while True:
                self._again.discard(name)
                await work()
                if name not in self._again:
                    return
        except PolluxError as error:
            logs.logger().warning("work for batches is left to the next look", error=error.message)
        except Exception:  # noqa: BLE001  the next look does it again
            logs.logger().exception("work for batches failed")
        finally:
            del self._running[name]
            self._again.discard(name)
