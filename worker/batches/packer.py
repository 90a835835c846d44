"""Packs a chunk of a batch: the answers of its items become one compressed value.

Owns what a result keeps: the caller's name of the item, the answer, and of a failure also the item
itself, which a retry needs. Results of an earlier run stay unless the item has run again.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from shared.errors import WrongTypeError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import EndedChunk, EndedItem, PackChunkAsk, ReadEndedAsk
from shared.telemetry import logs
from shared.wire.batch import (
    BatchItem,
    ItemResult,
    ItemState,
    pack_results,
    unpack_items,
    unpack_results,
)

_NUMBER_BYTES: Final = 4
# An item that ends meanwhile belongs to a retry: its chunk is packed again at the end of that.
_READS_MAX: Final = 3
_CUT_OFF: Final[dict[str, ItemState]] = {"cancelled": "cancelled", "expired": "expired"}
_LOST: Final = "The item could not be read."


class _Chunk(NamedTuple):
    """A chunk as it is stored. `cut_off` is the state of items from `position` on, if any."""

    first: int
    items: bytes | None
    results: bytes | None
    ended: Sequence[EndedItem]
    position: int
    cut_off: ItemState | None


async def pack(redis: Connection, root: str, chunk: EndedChunk) -> bool:
    """Pack one chunk; return whether it is packed by now."""
    for _ in range(_READS_MAX):
        try:
            stored = await _read(redis, root, chunk)
        except WrongTypeError:
            stored = None
        if stored is None:
            # The batch was deleted meanwhile, or is damaged: the function finds that, too.
            nothing = PackChunkAsk(
                account=chunk.account, batch=chunk.batch, chunk=chunk.chunk, seqs=()
            )
            await functions.pack_chunk(redis, root, nothing, b"")
            return False
        blob = await asyncio.to_thread(_pack, chunk, stored)
        ask = PackChunkAsk(
            account=chunk.account,
            batch=chunk.batch,
            chunk=chunk.chunk,
            seqs=[(item.index, item.seq) for item in stored.ended],
        )
        if await functions.pack_chunk(redis, root, ask, blob) != "changed":
            return True
    return False


async def _read(redis: Connection, root: str, chunk: EndedChunk) -> _Chunk | None:
    account, batch, number = chunk
    offset = number * _NUMBER_BYTES
    record, start, items, results, ended = await asyncio.gather(
        redis.call("HMGET", keys.BATCH(root, account, batch), "stop", "state", "position"),
        redis.call(
            "GETRANGE",
            keys.BATCH_STARTS(root, account, batch),
            offset,
            offset + _NUMBER_BYTES - 1,
        ),
        redis.call("GET", keys.BATCH_ITEMS(root, account, batch, number)),
        redis.call("GET", keys.BATCH_RESULTS(root, account, batch, number)),
        functions.read_ended(redis, root, ReadEndedAsk(account=account, batch=batch, chunk=number)),
    )
    stop, state, position = record
    if state is None or len(start) < _NUMBER_BYTES:
        return None
    [first] = struct.unpack(">I", start)
    return _Chunk(
        first, items, results, ended, int(position or 0), _cut_off_state((stop or state).decode())
    )


def _cut_off_state(state: str) -> ItemState | None:
    return _CUT_OFF.get(state)


def _pack(chunk: EndedChunk, stored: _Chunk) -> bytes:
    items, results = _unpacked(chunk, stored)
    for index in range(stored.first + len(results)):
        place = index - stored.first
        is_cut_off = index >= max(stored.first, stored.position) and stored.cut_off is not None
        if is_cut_off and results[place] is None and place < len(items):
            results[place] = ItemResult(
                custom_id=items[place].custom_id,
                line=items[place].line,
                state=stored.cut_off or "cancelled",
                seq=0,
                fault=items[place].fault,
                metadata=items[place].metadata,
                project=items[place].project,
            )
    for ended in stored.ended:
        place = ended.index - stored.first
        results.extend([None] * (place + 1 - len(results)))
        earlier = results[place]
        item = items[place] if place < len(items) else earlier.item if earlier else None
        results[place] = _result(ended, item, earlier)
    return pack_results(results)


def _unpacked(
    chunk: EndedChunk, stored: _Chunk
) -> tuple[tuple[BatchItem, ...], list[ItemResult | None]]:
    items: tuple[BatchItem, ...] = ()
    results: list[ItemResult | None] = []
    try:
        if stored.items is not None:
            items = unpack_items(stored.items)
        if stored.results is not None:
            results = list(unpack_results(stored.results))
    except msgspec.MsgspecError as error:
        logs.logger().error(
            "a chunk of a batch cannot be read",
            account=chunk.account,
            batch=chunk.batch,
            chunk=chunk.chunk,
            fault=str(error),
        )
    results.extend([None] * (len(items) - len(results)))
    return items, results


def _result(ended: EndedItem, item: BatchItem | None, earlier: ItemResult | None) -> ItemResult:
    named = item or earlier
    fault = "" if ended.answer else (item.fault if item is not None else "") or _LOST
    return ItemResult(
        custom_id=named.custom_id if named is not None else str(ended.index + 1),
        line=named.line if named is not None else ended.index + 1,
        state=ended.state,
        seq=ended.seq,
        answer=ended.answer,
        captured=ended.captured,
        fault=fault,
        item=item if ended.state == "failed" and item is not None and not item.fault else None,
        metadata=named.metadata if named is not None else None,
        project=named.project if named is not None else None,
    )
