"""What holds of a batch's keys at every moment: its counts, its window, its order, its bytes.

Called by `redis_invariants` for each batch that it finds. Repairs nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from shared.lifecycle import ENDS
from shared.redis import keys

_ENDED: Final = ("completed", "failed", "cancelled", "expired")
_COUNTS: Final = (*_ENDED, "open", "seq", "total")


class StoredKeys(NamedTuple):
    """What is stored: hashes, members of sets, and the lengths of texts."""

    hashes: Mapping[str, Mapping[str, str]]
    sets: Mapping[str, set[str]]
    lengths: Mapping[str, int]


def is_unpacked_item(stored: StoredKeys, root: str, account: str, id_: str) -> bool:
    """Return whether a generation is an item of a batch that has ended and is not packed."""
    record = stored.hashes.get(keys.GENERATION(root, account, id_), {})
    batch, index, run, chunk, _ = record.get("batch", "- - - - -").split(" ")
    ended = stored.hashes.get(keys.BATCH_CHUNK(root, account, batch, chunk), {}).get(index, "")
    return ended.split(" ")[1:2] == [run]


def unbooked(stored: StoredKeys, root: str, account: str) -> int:
    """Return what an account's batches have captured that is not in the ledger yet."""
    start = keys.BATCH(root, account, "")
    records = (record for name, record in stored.hashes.items() if name.startswith(start))
    return sum(int(record.get("unbooked", 0)) for record in records)


def faults(stored: StoredKeys, root: str, account: str, batch: str) -> Iterator[str]:
    """Yield a sentence for every rule that does not hold of a batch."""
    record = stored.hashes[keys.BATCH(root, account, batch)]
    if "damaged" in record or record["state"] == "validating":
        return
    counts = {name: int(record.get(name, 0)) for name in _COUNTS}
    window = stored.sets.get(keys.BATCH_WINDOW(root, account, batch), set())
    items = [
        stored.hashes.get(keys.GENERATION(root, account, f"{batch}-{tail}"), {}) for tail in window
    ]
    order = stored.lengths.get(keys.BATCH_ORDER(root, account, batch), 0)
    is_over = record["state"] in _ENDED
    is_cut_off = int(record.get("position", 0)) < counts["total"]
    copies = [int(record.get(f"copies_{state}", 0)) for state in _ENDED]
    copies_left = int(record.get("copies", 0)) - sum(copies)
    is_open = batch in stored.sets.get(keys.OPEN_BATCHES(root, account), set())
    rules = {
        "the window holds what is under way": all(
            item.get("stage", "failed") not in ENDS for item in items
        ),
        f"{len(window)} in the window are the open ones": len(window) == counts["open"],
        f"{order} bytes of order are those of all ends": order == 4 * counts["seq"],
        "no count is below zero": min(counts.values()) >= 0,
        "its holds are those of its window": sum(int(item.get("hold", 0)) for item in items)
        == int(record.get("held", 0)),
        "all have ended where it has": not is_over
        or (counts["open"] == 0 and sum(counts[name] for name in _ENDED) == counts["total"]),
        "each copy is counted once, at the end of its original": min(copies) >= 0
        and copies_left >= 0
        and (copies_left == 0 or is_cut_off or not is_over),
        "it is in the list of open batches until its end": is_over != is_open,
        "its bytes are what is stored": _stored_bytes(stored, root, account, batch)
        == int(record.get("bytes", 0)),
    }
    for rule, holds in rules.items():
        if not holds:
            yield f"batch {batch}: not true that {rule}: {dict(record)}"


def _stored_bytes(stored: StoredKeys, root: str, account: str, batch: str) -> int:
    starts = (
        keys.BATCH_ITEMS(root, account, batch, ""),
        keys.BATCH_RESULTS(root, account, batch, ""),
        keys.BATCH_STARTS(root, account, batch),
    )
    record = stored.hashes[keys.BATCH(root, account, batch)]
    chunks = sum(size for name, size in stored.lengths.items() if name.startswith(starts))
    return chunks + len(record.get("errors", "").encode())
