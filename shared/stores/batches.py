"""Batches as callers see them, the results of their items, and the orders to read these in.

Owns how results are found: in the folded chunk, else by the function that reads what has ended and
is not folded yet. The highest number of finishing counts. A failure that is run again has not
ended; what a stop cut off has no record and follows from the batch's position. Writes nothing.

DESIGN. One chunk is read at a time. Names and lines of waiting items and the starts of chunks never
change, and are kept for the chunks that were read last.
"""

import array
import asyncio
import bisect
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from shared.errors import DAMAGED, EXPIRED, Failure
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import EndedItem
from shared.wire.batch import (
    Batch,
    BatchItem,
    ItemName,
    ItemResult,
    unpack_items,
    unpack_names,
    unpack_results,
)
from shared.wire.message import AssistantMessage

ENDED: Final = frozenset({"completed", "failed", "cancelled", "expired"})
# Of an index or a start in a string, big endian.
_NUMBER_BYTES: Final = 4
# Unpacking more takes longer than the loop should be held.
_INLINE_BYTES_MAX: Final = 32_768
_STARTS_KEPT: Final = 64
_CHUNKS_NAMED: Final = 256
# Of a line that is wrong, or an item that the queue refused.
INVALID_ITEM: Final = "INVALID_ITEM"
_DAMAGED_FIELDS: Final = {"state": b"failed", "created": b"0"}
_NUMBERS: Final = re.compile(rb"\d+")
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


class BatchRef(NamedTuple):
    """Where a batch is stored: `keys.BATCH(*ref)` is the key of its record."""

    root: str
    account: str
    id: str


class ChunkResults(NamedTuple):
    """A chunk's results in input order, None where an item has not ended; `first` is its index.

    A batch that is deleted meanwhile has none.
    """

    first: int
    results: list[ItemResult | None]


async def find(redis: Connection, ref: BatchRef) -> Batch | None:
    """Return an account's batch at this moment; None where the account has none of that id."""
    return _batch(ref.id, await redis.call("HGETALL", keys.BATCH(*ref)))


async def page(
    redis: Connection, root: str, account: str, *, offset: int, limit: int
) -> tuple[list[Batch], int]:
    """Return a page of an account's batches, the newest first, and their number."""
    where = keys.BATCHES(root, account)
    total, listed = await asyncio.gather(
        redis.call("ZCARD", where), redis.call("ZRANGE", where, offset, offset + limit - 1, "REV")
    )
    refs = [BatchRef(root, account, name.decode()) for name in listed]
    found = await asyncio.gather(*(find(redis, ref) for ref in refs))
    return [batch for batch in found if batch is not None], total


async def ended_after(redis: Connection, ref: BatchRef, seq: int, count: int) -> Sequence[int]:
    """Return the indexes of the items that ended after a number of finishing, in that order."""
    first = seq * _NUMBER_BYTES
    last = first + count * _NUMBER_BYTES - 1
    return _numbers(await redis.call("GETRANGE", keys.BATCH_ORDER(*ref), first, last))


class BatchResults:
    """Reads the results of items, a chunk at a time."""

    def __init__(self, redis: Connection) -> None:
        self._redis = redis
        self._starts: OrderedDict[str, Sequence[int]] = OrderedDict()
        self._names: OrderedDict[tuple[str, int], tuple[ItemName, ...]] = OrderedDict()

    async def chunk_of(self, ref: BatchRef, batch: Batch, index: int) -> int:
        """Return the chunk that an item is in."""
        return bisect.bisect_right(await self._load_starts(ref, batch), index) - 1

    async def read(
        self, ref: BatchRef, batch: Batch, chunk: int, *, has_old_failures: bool = False
    ) -> ChunkResults:
        """Return what a chunk's items have come to by now.

        A failure that is run again has not ended, unless the old ones are wanted, too.
        """
        starts = await self._load_starts(ref, batch)
        if not 0 <= chunk < len(starts):
            return ChunkResults(0, [])
        first = starts[chunk]
        end = starts[chunk + 1] if chunk + 1 < len(starts) else batch.total
        results = await self._folded(ref, chunk, end - first)
        if None in results or batch.retried_seq:
            results = await self._with_unfolded(ref, chunk, first, end - first)
        is_retried = batch.retried_seq and batch.stop is None and batch.state not in ENDED
        if is_retried and not has_old_failures:
            results = [None if _runs_again(each, batch) else each for each in results]
        await self._add_cut_off(ref, batch, chunk, ChunkResults(first, results))
        return ChunkResults(first, results)

    async def waiting_item(self, ref: BatchRef, chunk: int, place: int) -> BatchItem | None:
        """Return an item of a chunk as it waits; None where it waits no more."""
        stored = await self._redis.call("GET", keys.BATCH_ITEMS(*ref, chunk))
        if stored is None:
            return None
        if len(stored) > _INLINE_BYTES_MAX:
            items = await asyncio.to_thread(unpack_items, stored)
        else:
            items = unpack_items(stored)
        return items[place] if place < len(items) else None

    async def line_of(
        self, ref: BatchRef, found: ChunkResults, chunk: int, place: int
    ) -> int | None:
        """Return the line of an item of a chunk that was read; None where it is not known."""
        result = found.results[place]
        if result is not None:
            return result.line
        names = await self._load_names(ref, chunk)
        return names[place].line if place < len(names) else None

    async def first_chunk_after_line(self, ref: BatchRef, batch: Batch, line: int) -> int:
        """Return the chunk of the first item after a line of the caller's file.

        A line is at most as far behind its index as the file has empty lines before it.
        """
        low, high = 0, await self.chunk_of(ref, batch, min(line, batch.total - 1))
        if high < 1 or await self._first_line(ref, high) <= line + 1:
            return max(0, high)
        while low < high:
            middle = (low + high + 1) // 2
            if await self._first_line(ref, middle) <= line + 1:
                low = middle
            else:
                high = middle - 1
        return low

    async def _first_line(self, ref: BatchRef, chunk: int) -> int:
        names = await self._load_names(ref, chunk)
        if names:
            return names[0].line
        [first, *_] = await self._folded(ref, chunk, 1)
        return 0 if first is None else first.line

    async def _load_starts(self, ref: BatchRef, batch: Batch) -> Sequence[int]:
        known = self._starts.get(ref.id)
        if known is None:
            known = _numbers(await self._redis.call("GET", keys.BATCH_STARTS(*ref)) or b"")
            if len(known) < batch.chunks:
                # Deleted meanwhile, the last chunks first.
                return known
            self._starts[ref.id] = known
            if len(self._starts) > _STARTS_KEPT:
                self._starts.popitem(last=False)
        return known

    async def _folded(self, ref: BatchRef, chunk: int, count: int) -> list[ItemResult | None]:
        stored = await self._redis.call("GET", keys.BATCH_RESULTS(*ref, chunk))
        if stored is None:
            return [None] * count
        if len(stored) > _INLINE_BYTES_MAX:
            return list(await asyncio.to_thread(unpack_results, stored))
        return list(unpack_results(stored))

    async def _with_unfolded(
        self, ref: BatchRef, chunk: int, first: int, count: int
    ) -> list[ItemResult | None]:
        """Return what has ended, folded or not.

        The folded chunk is read second: one that is folded in between is found there. If its names
        have gone by then, it was folded later still.
        """
        ask = functions.ReadEndedAsk(account=ref.account, batch=ref.id, chunk=chunk)
        ended = await functions.read_ended(self._redis, ref.root, ask)
        results = await self._folded(ref, chunk, count)
        names = await self._load_names(ref, chunk) if ended and None in results else ()
        if not names and any(results[item.index - first] is None for item in ended):
            ended, results = [], await self._folded(ref, chunk, count)
        for item in ended:
            place = item.index - first
            earlier = results[place]
            if earlier is not None and earlier.seq >= item.seq:
                continue
            name = earlier or (names[place] if place < len(names) else None)
            if name is not None:
                results[place] = _unfolded(item, name)
        return results

    async def _add_cut_off(
        self, ref: BatchRef, batch: Batch, chunk: int, found: ChunkResults
    ) -> None:
        """Add what a stop kept from entering the queue."""
        state = batch.cut_off
        first = max(found.first, batch.position)
        if state is None or None not in found.results[max(0, first - found.first) :]:
            return
        names = await self._load_names(ref, chunk)
        if not names:
            # Folded since it was read.
            found.results[:] = await self._folded(ref, chunk, len(found.results))
        for index in range(first, found.first + len(names)):
            name = names[index - found.first]
            found.results[index - found.first] = ItemResult(
                custom_id=name.custom_id, line=name.line, state=state, seq=0
            )

    async def _load_names(self, ref: BatchRef, chunk: int) -> tuple[ItemName, ...]:
        """Return the names of a chunk that is not folded; none where it is, or is deleted."""
        known = self._names.get((ref.id, chunk))
        if known is not None:
            self._names.move_to_end((ref.id, chunk))
            return known
        stored = await self._redis.call("GET", keys.BATCH_ITEMS(*ref, chunk))
        if stored is None:
            return ()
        if len(stored) > _INLINE_BYTES_MAX:
            names = await asyncio.to_thread(unpack_names, stored)
        else:
            names = unpack_names(stored)
        self._names[ref.id, chunk] = names
        if len(self._names) > _CHUNKS_NAMED:
            self._names.popitem(last=False)
        return names


def _unfolded(ended: EndedItem, name: ItemName | ItemResult) -> ItemResult:
    return ItemResult(
        custom_id=name.custom_id,
        line=name.line,
        state=ended.state,
        seq=ended.seq,
        answer=ended.answer,
        captured=ended.captured,
        fault="" if ended.answer else name.fault,
    )


def failure(item: ItemResult, answer: AssistantMessage | None) -> Failure | None:
    """Return why an item has no answer; None where it has one, or was cancelled."""
    if answer is not None and answer.failure is not None:
        return answer.failure
    if item.state == "expired":
        return EXPIRED
    if item.state != "failed":
        return None
    if not item.fault:
        return DAMAGED
    return Failure(message=item.fault, category="invalid_request", code=INVALID_ITEM)


def _batch(batch: str, fields: dict[bytes, bytes]) -> Batch | None:
    """Return a stored record as a batch; fields that this version does not know are ignored.

    Of a damaged record, the fields that are sound.
    """
    if b"state" not in fields:
        return None
    stored = {name.decode(): value for name, value in fields.items()}
    try:
        return _decoded(batch, stored)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        sound = {name: value for name, value in stored.items() if _is_sound(batch, name, value)}
        return _decoded(batch, _DAMAGED_FIELDS | sound)


def _is_sound(batch: str, name: str, value: bytes) -> bool:
    try:
        _decoded(batch, _DAMAGED_FIELDS | {name: value})
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


def _decoded(batch: str, fields: dict[str, bytes]) -> Batch:
    stored = dict(fields)
    metadata, marks = stored.pop("metadata", None), _NUMBERS.findall(stored.pop("marks", b""))
    pairs = tuple(zip(map(int, marks[::2]), map(int, marks[1::2]), strict=False))
    return msgspec.convert(
        {name: value.decode() for name, value in stored.items()}
        | {
            "id": batch,
            "dedupe": stored.get("dedupe") == b"1",
            "metadata": _decode_metadata(metadata) if metadata else None,
            "marks": pairs,
        },
        Batch,
        strict=False,
    )


def _runs_again(result: ItemResult | None, batch: Batch) -> bool:
    return result is not None and (
        result.state == "failed" and result.item is not None and result.seq <= batch.retried_seq
    )


def _numbers(stored: bytes) -> Sequence[int]:
    numbers = array.array("I", stored[: len(stored) // _NUMBER_BYTES * _NUMBER_BYTES])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
