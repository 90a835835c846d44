"""Batches: their items while they wait and after they have ended, packed into chunks.

Written by the API (items) and by workers (results), read by both. Redis stores chunks as opaque
values and counts in the batch's hash (deploy/docs/decisions/18-batches.md).
"""

import re
import struct
import zlib
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

BatchState = Literal[
    "validating", "running", "paused", "completed", "failed", "cancelled", "expired"
]
# Of an item that has ended.
ItemState = Literal["completed", "failed", "cancelled", "expired"]
PauseReason = Literal["user", "max_credits", "credits", "memory"]

# A chunk ends with this many items, or with the item that brings it to so many bytes.
CHUNK_ITEMS_MAX: Final = 128
CHUNK_BYTES: Final = 262_144
# Conversations shrink to a third at the fastest level already.
_LEVEL: Final = 1
# Of a chunk when it is not compressed: one item of the longest kind may follow the bytes above.
_CHUNK_BYTES_MAX: Final = 64 * 1024 * 1024


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch at one moment. Times in ms, money in microcredits.

    `position` is the index of the next item in input order that has not entered the queue, `open`
    how many are in it or run. `failed` counts lines that are wrong, too, once they are passed.
    `stop` is the state that a stopped batch gets when its last open item has ended. Failures with a
    number of finishing up to `retried_seq` are run again. `marks` are pairs of a time and how many
    items had ended, the oldest first.

    `total` and all counts are without the `copies` of its items; `copies_completed` to
    `copies_expired` count those by how their originals ended. `copies_chunk` is where
    their numbers are stored (batch_copies).
    """

    id: str
    state: BatchState
    created: int
    total: int = 0
    chunks: int = 0
    invalid: int = 0
    position: int = 0
    open: int = 0
    seq: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    used: int = 0
    held: int = 0
    bytes: int = 0
    reason: PauseReason | None = None
    stop: Literal["cancelled", "expired"] | None = None
    retried_seq: int = 0
    max_credits: int | None = None
    started: int | None = None
    finished: int | None = None
    deadline: int | None = None
    delete_at: int | None = None
    metadata: dict[str, str] | None = None
    webhook: str | None = None
    dedupe: bool = False
    copies: int = 0
    copies_chunk: int = 0
    copies_completed: int = 0
    copies_failed: int = 0
    copies_cancelled: int = 0
    copies_expired: int = 0
    marks: tuple[tuple[int, int], ...] = ()

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return self.completed + self.failed + self.cancelled + self.expired

    @property
    def waiting(self) -> int:
        """How many items have neither entered the queue nor ended."""
        return self.total - self.ended - self.open

    @property
    def cut_off(self) -> ItemState | None:
        """The state of what a stop kept from entering the queue; None where nothing was."""
        if self.position >= self.total:
            return None
        if self.stop is not None:
            return self.stop
        match self.state:
            case "cancelled" | "expired":
                return self.state
            case _:
                return None

    def counts_with_copies(self) -> "ItemCounts":
        """Return how many items are where, each copy as its original.

        Copies of what waits or is open wait; at the end, uncounted ones are those of what was cut
        off, or of what a process that knows no copies has ended as failed.
        """
        counted = ItemCounts(
            waiting=max(0, self.waiting),
            open=self.open,
            completed=self.completed + self.copies_completed,
            failed=self.failed + self.copies_failed,
            cancelled=self.cancelled + self.copies_cancelled,
            expired=self.expired + self.copies_expired,
        )
        left = self.total + self.copies - sum(counted)
        if left <= 0 or not self.copies:
            return counted
        where = "waiting" if self.finished is None else self.cut_off or "failed"
        return counted._replace(**{where: getattr(counted, where) + left})


class ItemCounts(NamedTuple):
    """How many items are where."""

    waiting: int
    open: int
    completed: int
    failed: int
    cancelled: int
    expired: int


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item as it waits: what enters the queue, or why it cannot.

    `line` is its place in the caller's file, from 1. Where `fault` says what is wrong with the
    line, nothing enters the queue and the rest is empty. `submission` is encoded; `content`,
    `metadata`, `project` and `media` are those of the user's message. A line for which `copy_of`
    names the index of an identical item is never stored as an item.
    """

    custom_id: str
    line: int
    fault: str = ""
    copy_of: int | None = None
    content: str = ""
    model: str = ""
    wire: int = 0
    hold: int = 0
    submission: bytes = b""
    metadata: dict[str, str] | None = None
    project: str | None = None
    media: tuple[str, ...] = ()


class ItemName(msgspec.Struct, frozen=True):
    """What a waiting item is called; read without the rest of it."""

    custom_id: str
    line: int
    fault: str = ""


class ItemResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item that has ended. `seq` is its number of finishing, from 1.

    `answer` is the assistant's message as `shared/wire/message.py` encodes it, empty where no
    attempt was made: then `fault` says why. `item` is kept of an item that may be run again.
    `metadata` and `project` are the caller's own, as the item was sent.
    """

    custom_id: str
    line: int
    state: ItemState
    seq: int
    answer: bytes = b""
    captured: int = 0
    fault: str = ""
    item: BatchItem | None = None
    metadata: dict[str, str] | None = None
    project: str | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_items = msgspec.msgpack.Decoder(tuple[BatchItem, ...]).decode
_decode_names = msgspec.msgpack.Decoder(tuple[ItemName, ...]).decode
_decode_results = msgspec.msgpack.Decoder(tuple[ItemResult | None, ...]).decode


def pack_items(items: list[BatchItem]) -> bytes:
    """Return a chunk of waiting items as it is stored."""
    return zlib.compress(_encode(items), _LEVEL)


def unpack_items(stored: bytes) -> tuple[BatchItem, ...]:
    """Return the items of a stored chunk. Raises msgspec.MsgspecError."""
    return _decode_items(_inflate(stored))


def unpack_names(stored: bytes) -> tuple[ItemName, ...]:
    """Return the names of a stored chunk's waiting items. Raises msgspec.MsgspecError."""
    return _decode_names(_inflate(stored))


def pack_results(results: list[ItemResult | None]) -> bytes:
    """Return a chunk's results as they are stored; None where an item has not ended."""
    return zlib.compress(_encode(results), _LEVEL)


def unpack_results(stored: bytes) -> tuple[ItemResult | None, ...]:
    """Return the results of a stored chunk, in input order. Raises msgspec.MsgspecError."""
    return _decode_results(_inflate(stored))


def pack_starts(starts: Sequence[int]) -> bytes:
    """Return the indexes of the first items of chunks as they are stored, 4 bytes each."""
    return struct.pack(f">{len(starts)}I", *starts)


def _inflate(stored: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        packed = inflater.decompress(stored, _CHUNK_BYTES_MAX)
    except zlib.error as error:
        raise msgspec.DecodeError(str(error)) from None
    if not inflater.eof:
        raise msgspec.DecodeError("a chunk of a batch is cut, or too long")
    return packed


_ITEM_ID: Final = re.compile(r"([A-Za-z0-9_-]{23})-(\d{1,7})(?:-(\d{1,4}))?")


class ItemRef(msgspec.Struct, frozen=True):
    """Which item of which batch a generation is; `run` counts from 1."""

    batch: str
    index: int
    run: int = 1

    @property
    def tail(self) -> str:
        """What the generation's id adds to the batch's."""
        return f"{self.index}" if self.run == 1 else f"{self.index}-{self.run}"

    @property
    def generation(self) -> str:
        """The generation's id."""
        return f"{self.batch}-{self.tail}"

    @classmethod
    def of(cls, generation: str) -> "ItemRef | None":
        """Return which item an id names; None for an id that names none."""
        match = _ITEM_ID.fullmatch(generation)
        return None if match is None else cls(match[1], int(match[2]), int(match[3] or 1))


# What a window holds beside twice what runs, so that a fast fleet finds work until it is refilled.
_WINDOW_SPARE: Final = 128
_WINDOW_MAX: Final = 4_096


def window_size(running_max: int, slots: int, unfinished_max: int) -> int:
    """Return how many items of an account may be in the queue or run.

    `running_max` is what its batches may run at once, `slots` what the fleet has for batches, and
    `unfinished_max` what the account may have unfinished, of which half stays free.
    """
    window = 2 * min(running_max, slots) + _WINDOW_SPARE
    return max(1, min(window, _WINDOW_MAX, unfinished_max // 2))
