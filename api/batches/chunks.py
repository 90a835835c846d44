"""Stores the items of one upload in chunks, and lets the batch run or deletes it.

An upload that stores nothing for `UPLOAD_MS` counts as given up, so a slow one renews; a chore
deletes what a process that died has left.
"""

import asyncio
from typing import Final, NamedTuple

import msgspec

from api.accept.rejections import Rejections
from api.batches.copies import Copies
from api.batches.terms import ERRORS_MAX, quota_exceeded
from api.guards.identify import Caller
from api.wire.fields import InvalidItem
from shared.clock import Clock
from shared.errors import UnavailableError
from shared.redis import functions
from shared.redis.client import Connection
from shared.redis.functions import (
    DeleteBatchAsk,
    DeleteBatchPiecesAsk,
    FinishUploadAsk,
    StoredBytesExceeded,
    WriteBatchChunkAsk,
)
from shared.redis.replicated import ReplicatedConnection
from shared.tiers import Tier
from shared.wire import batch as batches
from shared.wire.batch import CHUNK_BYTES, CHUNK_ITEMS_MAX, BatchItem

UPLOAD_MS: Final = 60_000
_RENEW_SECONDS: Final = 10.0
# A longer chunk is compressed in another thread.
_LONG_BYTES: Final = 32_768
# Of an item beside its texts, when it is packed.
_ITEM_BYTES: Final = 100


class Store(NamedTuple):
    """What storing a batch needs; `durable_redis` waits for a replica where that is asked for."""

    redis: Connection
    durable_redis: Connection | ReplicatedConnection
    clock: Clock
    rejections: Rejections


class ChunkWriter:
    """One batch, from its first item on. Once it is dropped, items are only counted."""

    def __init__(self, store: Store, caller: Caller, batch: str, tier: Tier) -> None:
        self.batch = batch
        self.total = self.invalid = self.copies = 0
        self.errors: list[InvalidItem] = []
        self._store = store
        self._caller = caller
        self._tier = tier
        self._items: list[BatchItem] = []
        self._bytes = 0
        self._starts: list[int] = []
        self._is_dropped = False
        self._renewed = store.clock.monotonic()

    def add(self, item: BatchItem) -> bool:
        """Add an item; return whether a chunk is full. Raises RefusedError (QUOTA_EXCEEDED)."""
        self.total += 1
        if self.total > self._tier.batch_items_max:
            raise quota_exceeded("batch_items", self.total, self._tier.batch_items_max)
        if item.fault:
            self.invalid += 1
            if len(self.errors) < ERRORS_MAX:
                self.errors.append(InvalidItem(item.line, item.custom_id, item.fault))
        if item.copy_of is not None:
            self.copies += 1
            return False
        if self._is_dropped:
            return False
        self._items.append(item)
        self._bytes += len(item.content) + len(item.submission) + _ITEM_BYTES
        return len(self._items) >= CHUNK_ITEMS_MAX or self._bytes >= CHUNK_BYTES

    async def write(self) -> None:
        """Store the items added since the last chunk.

        Raises:
            RefusedError: QUEUE_FULL without memory, QUOTA_EXCEEDED.
            UnavailableError: The upload was given up, or Redis is away.

        """
        await self._store.rejections.check_batch_memory(self._caller)
        items, is_long = self._items, self._bytes >= _LONG_BYTES
        if not items:
            return
        self._items, self._bytes = [], 0
        packed = await asyncio.to_thread(_pack, items) if is_long else _pack(items)
        await self._write(len(items), packed)
        self._starts.append(self.total - self.copies - len(items))

    async def renew(self) -> None:
        """Keep a slow upload, which has stored nothing for a while. Raises UnavailableError."""
        if self._is_dropped or self._store.clock.monotonic() - self._renewed < _RENEW_SECONDS:
            return
        await self._write(0, b"")

    async def finish(
        self, deadline_ms: int, fingerprint: str | None, copies: Copies | None
    ) -> None:
        """Let the batch run. Raises as `write`."""
        await self.write()
        chunks, copies_chunk = len(self._starts), None
        if copies is not None and self.copies:
            copies_chunk = await copies.store(chunks, self._write_copies)
        ask = FinishUploadAsk(
            account=self._caller.account.id,
            batch=self.batch,
            total=self.total - self.copies,
            invalid=self.invalid,
            chunks=chunks,
            deadline_ms=deadline_ms,
            fingerprint=fingerprint,
            errors=msgspec.json.encode(self.errors).decode() if self.errors else None,
            copies=self.copies,
            copies_chunk=copies_chunk,
        )
        started = await functions.finish_upload(
            self._store.durable_redis, self._caller.root, ask, self._starts
        )
        if started is None:
            raise _given_up()

    async def drop(self) -> None:
        """Delete what is stored, and store nothing more."""
        self._is_dropped = True
        self._items.clear()
        await delete(self._store.redis, self._caller.root, self._caller.account.id, self.batch)

    async def _write_copies(self, chunk: bytes) -> None:
        """Store a chunk of copies, which has no items of its own."""
        await self._write(0, chunk)
        self._starts.append(self.total - self.copies)

    async def _write(self, count: int, packed: bytes) -> None:
        ask = WriteBatchChunkAsk(
            account=self._caller.account.id,
            batch=self.batch,
            chunk=len(self._starts),
            items=count,
            upload_ms=UPLOAD_MS,
            stored_bytes_max=self._tier.stored_bytes_max,
        )
        written = await functions.write_batch_chunk(
            self._store.redis, self._caller.root, ask, packed
        )
        self._renewed = self._store.clock.monotonic()
        if isinstance(written, StoredBytesExceeded):
            raise quota_exceeded("stored_bytes", written.used, self._tier.stored_bytes_max)
        if written == "gone":
            raise _given_up()


async def delete(redis: Connection, root: str, account: str, batch: str) -> None:
    """Delete a batch that has ended or is being uploaded, with all of its chunks."""
    await functions.delete_batch(redis, root, DeleteBatchAsk(account=account, batch=batch))
    ask = DeleteBatchPiecesAsk(account=account, batch=batch)
    while await functions.delete_batch_pieces(redis, root, ask):
        pass


def _pack(items: list[BatchItem]) -> bytes:
    return batches.pack_items(items)


def _given_up() -> UnavailableError:
    return UnavailableError("The upload stored nothing for too long, and was given up.")
