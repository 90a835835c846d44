"""Stores a batch as an upload does, ready to run."""

import array
import struct
from collections.abc import Sequence

from shared import ids
from shared.redis import keys
from shared.redis.client import Connection
from shared.wire.batch import BatchItem, pack_items
from shared.wire.batch_copies import Copy, CopyPlaces, pack_counts, pack_places, pack_section
from shared.wire.submission import BATCH_WIRE, Submission, encode

# Behind a section by line, one by original, and where these begin.
COUNTS_CHUNK = 3
HOUR_MS = 3_600_000


def item(line: int, content: str = "", *, hold: int = 10, fault: str = "") -> BatchItem:
    """Return an item of a plain prompt; one with a fault is a wrong line."""
    if fault:
        return BatchItem(custom_id=f"c{line}", line=line, fault=fault)
    return BatchItem(
        custom_id=f"c{line}",
        line=line,
        content=content or f"prompt {line}",
        model="auto",
        wire=BATCH_WIRE,
        hold=hold,
        submission=encode(Submission(session=None)),
    )


def items(count: int, *, hold: int = 10) -> list[BatchItem]:
    """Return plain items."""
    return [item(line, hold=hold) for line in range(1, count + 1)]


def in_chunks(all_items: Sequence[BatchItem], size: int) -> list[Sequence[BatchItem]]:
    """Split items into chunks."""
    return [all_items[start : start + size] for start in range(0, len(all_items), size)]


async def store(
    redis: Connection,
    root: str,
    chunks: Sequence[Sequence[BatchItem]],
    *,
    account: str = "ann",
    max_credits: int | None = None,
    deadline_ms: int = HOUR_MS,
    id_: str | None = None,
    copies: Sequence[Copy] = (),
) -> str:
    """Store a running batch; return its id."""
    batch = id_ or ids.new_id()
    seconds, micros = await redis.call("TIME")
    now = int(seconds) * 1000 + int(micros) // 1000
    stored = [pack_items(list(chunk)) for chunk in chunks]
    starts, first = b"", 0
    for number, (chunk, packed) in enumerate(zip(chunks, stored, strict=True)):
        starts += struct.pack(">I", first)
        first += len(chunk)
        await redis.call("SET", keys.BATCH_ITEMS(root, account, batch, number), packed)
    behind = copy_chunks(len(chunks), copies)
    for number, packed in enumerate(behind, len(chunks)):
        starts += struct.pack(">I", first)
        await redis.call("SET", keys.BATCH_ITEMS(root, account, batch, number), packed)
    if starts:
        await redis.call("SET", keys.BATCH_STARTS(root, account, batch), starts)
    size = sum(map(len, [*stored, *behind])) + len(starts)
    fields: dict[str, str | int] = {
        "state": "running",
        "created": now,
        "deadline": now + deadline_ms,
        "total": first,
        "chunks": len(chunks),
        "invalid": sum(bool(each.fault) for chunk in chunks for each in chunk),
        "position": 0,
        "key": "key-1",
        "bytes": size,
    }
    if copies:
        fields |= {"copies": len(copies), "copies_chunk": len(chunks) + COUNTS_CHUNK}
    if max_credits is not None:
        fields["max_credits"] = max_credits
    name = keys.BATCH(root, account, batch)
    await redis.call("HSET", name, *(part for pair in fields.items() for part in pair))
    await redis.call("HINCRBY", keys.ACCOUNT_TOTALS(root, account), "stored_batches", size)
    await redis.call("ZADD", keys.BATCHES(root, account), now, batch)
    await redis.call("ZADD", keys.OPEN_BATCHES(root, account), now, batch)
    await redis.call("ZADD", keys.BATCH_WORK(root), now, f"{account}:{batch}")
    return batch


def copy_chunks(first: int, copies: Sequence[Copy]) -> list[bytes]:
    """Return what is stored of copies: a section by line and one by original, and where to look."""
    if not copies:
        return []
    by_line = sorted(copies, key=lambda copy: copy.line)
    by_original = sorted(copies, key=lambda copy: (copy.original, copy.line))
    counts = array.array("I", bytes(4 * (by_original[-1].original + 1)))
    for copy in copies:
        counts[copy.original] += 1
    places = CopyPlaces(first, [by_line[0].line], [by_original[0].original])
    return [
        pack_section(by_line),
        pack_section(by_original),
        pack_places(places),
        *pack_counts(counts),
    ]
