"""Stores batches as their record is documented, at any moment of their life.

Owns what a test does not care about. Writes the keys themselves, so that a test can have any
mixture of chunks that are folded, run or wait; and deletes them in the end, since what else belongs
to a batch is not there.
"""

import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from shared import ids
from shared.redis import keys
from shared.redis.client import Redis
from shared.stores.batches import ENDED, BatchRef
from shared.wire.batch import BatchItem, ItemResult, pack_items, pack_results
from shared.wire.batch_copies import Copy
from shared.wire.message import AssistantMessage, Usage, encode_assistant
from shared.wire.routing import StoredRouting
from tests.support.stored_batches import COUNTS_CHUNK, copy_chunks

StoreBatch = Callable[[], "StoredBatch"]
CREATED: Final = 1_767_225_600_000


def answered(number: int, content: str, seq: int | None = None) -> ItemResult:
    """Return an item that was answered; its number is its line, and it is named after it."""
    answer = AssistantMessage(
        status="completed",
        content=content,
        created=CREATED,
        routing=StoredRouting("catalogue_order", "alpha", "general", ()),
        usage=Usage(input_tokens=5, output_tokens=7, cost=250_000),
    )
    return ItemResult(
        custom_id=f"item-{number}",
        line=number,
        state="completed",
        seq=seq or number,
        answer=encode_assistant(answer),
        captured=250_000,
    )


def waiting(number: int, fault: str = "") -> BatchItem:
    """Return an item that waits, or is a wrong line."""
    return BatchItem(custom_id=f"item-{number}", line=number, fault=fault, content="Hello")


@asynccontextmanager
async def stored_batches(redis: Redis, root: str, account: str) -> AsyncIterator[StoreBatch]:
    """Yield what begins a batch of an account, and delete all batches in the end."""
    made: list[StoredBatch] = []

    def begin() -> StoredBatch:
        made.append(StoredBatch(redis, root, account))
        return made[-1]

    yield begin
    for batch in made:
        names = await redis.call("KEYS", f"{root}batch*{batch.ref.id}*")
        await redis.call("ZREM", keys.BATCHES(root, account), batch.ref.id)
        await redis.call("DEL", "-", *names)


class StoredBatch:
    """A batch in Redis, chunk by chunk: results that are folded, or items that wait."""

    def __init__(self, redis: Redis, root: str, account: str) -> None:
        self.redis = redis
        self.ref = BatchRef(root, account, ids.new_id())
        self.order: list[int] = []
        self._starts: list[int] = []
        self._total = self._copies = 0
        self._behind: list[bytes] = []

    async def add(self, chunk: Sequence[ItemResult | None] | Sequence[BatchItem]) -> None:
        """Store a chunk of results, None where one has not ended, or of items that wait."""
        number = len(self._starts)
        self._starts.append(self._total)
        results = [each for each in chunk if not isinstance(each, BatchItem)]
        items = [each for each in chunk if isinstance(each, BatchItem)]
        if results:
            packed = pack_results(results)
            await self.redis.call("SET", keys.BATCH_RESULTS(*self.ref, number), packed)
            ended = [(each.seq, self._total + at) for at, each in enumerate(results) if each]
            self.note_ends(*ended)
        else:
            packed = pack_items(items)
            await self.redis.call("SET", keys.BATCH_ITEMS(*self.ref, number), packed)
        self._total += len(chunk)

    async def add_copies(self, copies: Sequence[Copy]) -> None:
        """Store copies of its items, behind its last chunk."""
        self._behind = copy_chunks(len(self._starts), copies)
        for number, packed in enumerate(self._behind, len(self._starts)):
            await self.redis.call("SET", keys.BATCH_ITEMS(*self.ref, number), packed)
        self._copies = len(copies)

    def note_ends(self, *ends: tuple[int, int]) -> None:
        """Note the ends of items: their numbers of finishing and indexes."""
        for seq, index in ends:
            self.order += [0] * (seq - len(self.order))
            self.order[seq - 1] = index

    async def write(self, state: str = "running", **fields: object) -> str:
        """Write the record, and what it needs beside; return the batch's id."""
        root, account, batch = self.ref
        record: dict[str, object] = {
            "state": state,
            "created": CREATED,
            "started": CREATED + 1_000,
            "total": self._total,
            "chunks": len(self._starts),
            "position": len(self.order),
            "seq": len(self.order),
        }
        if self._copies:
            counts = len(self._starts) + COUNTS_CHUNK
            record |= {"copies": self._copies, "copies_chunk": counts}
        if state in ENDED:
            record |= {"finished": CREATED + 11_000, "delete_at": CREATED + 99_000}
        record |= fields
        if isinstance(record.get("metadata"), dict):
            record["metadata"] = json.dumps(record["metadata"])
        flat = [str(part) for pair in record.items() for part in pair]
        all_starts = [*self._starts, *([self._total] * len(self._behind))]
        starts, order = (struct.pack(f">{len(n)}I", *n) for n in (all_starts, self.order))
        await self.redis.call("HSET", keys.BATCH(*self.ref), *flat)
        await self.redis.call("SET", keys.BATCH_STARTS(*self.ref), starts)
        await self.redis.call("SET", keys.BATCH_ORDER(*self.ref), order)
        created = str(record["created"])
        await self.redis.call("ZADD", keys.BATCHES(root, account), created, batch)
        return batch
