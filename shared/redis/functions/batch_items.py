"""The items of a batch: they enter the queue, end, and are packed; and what may happen to a batch.

`feed` in shared/batches calls what lets items enter the queue, `worker/batches` the rest.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, KeepTimes, text_of
from shared.redis.library import invoke
from shared.wire.batch import BatchState, ItemState

# How many items may enter the queue in one call: more would hold up the server's other clients.
ITEMS_PER_CALL: Final = 64

BatchStop = Literal["cancelled", "expired"]
PackOutcome = Literal["packed", "changed", "gone"]


class PlanFeedAsk(Ask, frozen=True, kw_only=True):
    """Whose batches; those in `skip` have just been tried in vain."""

    account: str
    skip: Sequence[str] = ()


class FeedPlan(NamedTuple):
    """Which items of a batch enter the queue next, from `position` in a chunk on.

    The chunk has the items from `first` up to `end`. `run` counts from 1; in a later one, failures
    with a number of finishing up to `retried_seq` enter. `items` and `results` are the chunk as it
    is stored.
    """

    batch: str
    position: int
    run: int
    chunk: int
    first: int
    end: int
    retried_seq: int
    items: bytes | None
    results: bytes | None


class ChunkToPack(NamedTuple):
    """A chunk that must be packed before its failures can enter the queue again."""

    batch: str
    chunk: int


class DamagedBatch(NamedTuple):
    """A batch with a damaged record: `enqueue_items` sets it aside."""

    batch: str


async def plan_feed(
    redis: Connection, root: str, ask: PlanFeedAsk
) -> FeedPlan | ChunkToPack | DamagedBatch | None:
    """Return what enters the queue next; None where nothing is left."""
    reply: list[Reply] = await invoke(redis, "plan_feed", root, ask, effect="none")
    match [text_of(reply[0]), *reply[1:]]:
        case ["none"]:
            return None
        case ["damaged", batch]:
            return DamagedBatch(text_of(batch))
        case ["pack", batch, chunk]:
            return ChunkToPack(text_of(batch), chunk)
        case ["feed", batch, position, run, chunk, first, end, retried_seq, *stored]:
            items, results = (*stored, None, None)[:2]
            return FeedPlan(
                text_of(batch), position, run, chunk, first, end, retried_seq, items, results
            )
        case _:
            raise StoreError(f"plan_feed answered {reply!r}")


class QueueEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item as it enters the queue; `size` is that of its submission. A `fault` ends it."""

    index: int
    fault: bool = False
    content: str | None = None
    model: str | None = None
    wire: int | None = None
    hold: int | None = None
    size: int | None = None
    metadata: dict[str, str] | None = None
    project: str | None = None
    media: Sequence[str] | None = None


class EnqueueItemsAsk(Ask, frozen=True, kw_only=True):
    """The next items of a batch, in order, and the account's limits; times in ms.

    `position` is where they were read, `next` what follows, `window` how many may be in the queue.
    """

    account: str
    batch: str
    position: int
    next: int
    run: int
    chunk: int
    chunk_end: int
    entries: Sequence[QueueEntry]
    window: int
    unfinished_max: int
    total_max: int
    running_max: int
    stride: int
    keep_ms: int
    is_memory_short: bool = False


class Enqueued(msgspec.Struct, frozen=True):
    """So many entered the queue, and the batch is at `position`."""

    count: int
    position: int
    is_full: bool


class NotEnqueued(NamedTuple):
    """Nothing entered: another feeder was faster, the batch has stopped, waits, or is paused.

    `why` is the state, or what it waits for.
    """

    outcome: Literal["moved", "stopped", "waits", "paused"]
    why: str = ""


async def enqueue_items(
    redis: Connection, root: str, ask: EnqueueItemsAsk, submissions: bytes
) -> Enqueued | NotEnqueued:
    """Let items enter the queue, as far as window and credits reach; safe to repeat."""
    reply: list[Reply] = await invoke(redis, "enqueue_items", root, ask, blob=submissions)
    match [text_of(reply[0]), *reply[1:]]:
        case ["enqueued", count, position, is_full]:
            return Enqueued(count, position, is_full == 1)
        case ["moved", *_]:
            return NotEnqueued("moved")
        case [("stopped" | "waits" | "paused") as outcome, why]:
            return NotEnqueued(outcome, text_of(why))
        case _:
            raise StoreError(f"enqueue_items answered {reply!r}")


class ReadEndedAsk(Ask, frozen=True, kw_only=True):
    """Which chunk of a batch, or `only` which of its items."""

    account: str
    batch: str
    chunk: int
    only: Sequence[int] | None = None


class EndedItem(msgspec.Struct, frozen=True):
    """An item that has ended and is not packed. `answer` is empty where no attempt was made."""

    index: int
    seq: int
    run: int
    state: ItemState
    captured: int
    answer: bytes


async def read_ended(redis: Connection, root: str, ask: ReadEndedAsk) -> list[EndedItem]:
    """Return the items of a chunk that have ended and are not packed yet.

    Large answers take several calls. What is packed between these is not returned.
    """
    flat: list[Reply] = await invoke(redis, "read_ended", root, ask, effect="none")
    width = len(EndedItem.__struct_fields__)
    rows = [flat[start : start + width] for start in range(0, len(flat), width)]
    found = [
        EndedItem(index, seq, run, msgspec.convert(text_of(state), ItemState), captured, answer)
        for index, seq, run, state, captured, answer in rows
        if answer is not None
    ]
    left = [index for index, *_, answer in rows if answer is None]
    rest = msgspec.structs.replace(ask, only=left)
    return found + (await read_ended(redis, root, rest) if left else [])


class TakeEndedChunksAsk(Ask, frozen=True, kw_only=True):
    """How many chunks to take; after `lease_ms` another worker may take them."""

    count: int
    lease_ms: int


class EndedChunk(NamedTuple):
    """A chunk whose items have all ended."""

    account: str
    batch: str
    chunk: int


async def take_ended_chunks(
    redis: Connection, root: str, ask: TakeEndedChunksAsk
) -> list[EndedChunk]:
    """Take chunks to pack; after a lost reply they are taken again once the lease has ended."""
    names = await invoke(redis, "take_ended_chunks", root, ask)
    parts = (text_of(name).split(":") for name in names)
    return [EndedChunk(account, batch, int(chunk)) for account, batch, chunk in parts]


class PackChunkAsk(Ask, frozen=True, kw_only=True):
    """A chunk, and which ends its new results contain: (index, number of finishing)."""

    account: str
    batch: str
    chunk: int
    seqs: Sequence[tuple[int, int]]


async def pack_chunk(
    redis: Connection, root: str, ask: PackChunkAsk, results: bytes
) -> PackOutcome:
    """Put a chunk's results in the place of its generations and its input; safe to repeat."""
    answer = await invoke(redis, "pack_chunk", root, ask, blob=results)
    outcome: PackOutcome = msgspec.convert(text_of(answer), PackOutcome)
    return outcome


class PauseBatchAsk(Ask, frozen=True, kw_only=True):
    """Which batch to pause."""

    account: str
    batch: str


class ResumeBatchAsk(Ask, frozen=True, kw_only=True):
    """Which batch to resume, and its new limit in microcredits, if that changes."""

    account: str
    batch: str
    max_credits: int | None = None


class RetryBatchAsk(Ask, frozen=True, kw_only=True):
    """Which batch to retry; the account may have `open_max` batches that have not ended."""

    account: str
    batch: str
    open_max: int


class BatchConflict(NamedTuple):
    """It cannot be done in this state."""

    state: BatchState


class RetryQuotaReached(NamedTuple):
    """As many batches of the account are open, or the batch has had as many runs, as may be."""

    quota: Literal["open_batches", "batch_runs"]
    used: int


async def pause_batch(
    redis: Connection, root: str, ask: PauseBatchAsk
) -> BatchState | BatchConflict | None:
    """Pause a batch; return its state now, None where there is none."""
    return _changed(await invoke(redis, "pause_batch", root, ask))


async def resume_batch(
    redis: Connection, root: str, ask: ResumeBatchAsk
) -> BatchState | BatchConflict | None:
    """Resume a batch; return its state now, None where there is none."""
    return _changed(await invoke(redis, "resume_batch", root, ask))


async def retry_batch(
    redis: Connection, root: str, ask: RetryBatchAsk
) -> BatchState | BatchConflict | RetryQuotaReached | None:
    """Run the failures of a batch that has ended again; return its state now."""
    reply: list[Reply] = await invoke(redis, "retry_batch", root, ask)
    if text_of(reply[0]) == "quota":
        return msgspec.convert((text_of(reply[1]), reply[2]), RetryQuotaReached)
    return _changed(reply)


def _changed(reply: list[Reply]) -> BatchState | BatchConflict | None:
    match [text_of(word) for word in reply]:
        case ["unknown"]:
            return None
        case ["conflict", state]:
            return BatchConflict(_state(state))
        case [state]:
            return _state(state)
        case _:
            raise StoreError(f"a batch's change answered {reply!r}")


def _state(word: str) -> BatchState:
    state: BatchState = msgspec.convert(word, BatchState)
    return state


class StopBatchAsk(Ask, frozen=True, kw_only=True):
    """Which batch to stop: an `expired` stop does nothing before the deadline.

    `is_deleted`: it is to be deleted as soon as it has ended.
    """

    account: str
    batch: str
    stop: BatchStop
    is_deleted: bool = False


class StoppedBatch(NamedTuple):
    """A batch after a stop: `is_stopping` until its last open item has ended."""

    state: BatchState
    open: int
    is_stopping: bool


async def stop_batch(redis: Connection, root: str, ask: StopBatchAsk) -> StoppedBatch | None:
    """End what a batch has not begun; None where there is no such batch. Safe to repeat."""
    reply: list[Reply] = await invoke(redis, "stop_batch", root, ask)
    if text_of(reply[0]) == "unknown":
        return None
    state, open_count, is_stopping = reply
    return StoppedBatch(_state(text_of(state)), open_count, is_stopping == 1)


class EndOpenItemsAsk(Ask, frozen=True, kw_only=True):
    """Of which stopped batch to end open items, from `cursor` on."""

    account: str
    batch: str
    cursor: str
    keep: KeepTimes
    channels: str


class OpenItems(NamedTuple):
    """How many items are open, and the next call's cursor; None once all have been ended."""

    open: int
    cursor: str | None


async def end_open_items(redis: Connection, root: str, ask: EndOpenItemsAsk) -> OpenItems:
    """End up to 16 open items of a stopped batch, or ask their workers to stop."""
    open_count, cursor = await invoke(redis, "end_open_items", root, ask)
    return OpenItems(open_count, text_of(cursor) or None)


class AdoptItemsAsk(Ask, frozen=True, kw_only=True):
    """Which batch to look after, from `cursor` on."""

    account: str
    batch: str
    cursor: str


class BatchUnderWay(NamedTuple):
    """What a batch needs: items that may enter the queue, a stop that is to be carried on.

    `unfed` is a chunk whose input a stop left unused, `cursor` that of the next call, if any.
    """

    state: BatchState
    cursor: str | None
    may_feed: bool
    is_stopping: bool
    unfed: int | None
    is_past_deadline: bool


async def adopt_items(redis: Connection, root: str, ask: AdoptItemsAsk) -> BatchUnderWay | None:
    """Count items that a process of an older version has ended; None where there is no batch."""
    reply: list[Reply] = await invoke(redis, "adopt_items", root, ask)
    if text_of(reply[0]) == "unknown":
        return None
    state, cursor, may_feed, is_stopping, unfed, is_late = reply
    return BatchUnderWay(
        _state(text_of(state)),
        text_of(cursor) or None,
        may_feed == 1,
        is_stopping == 1,
        unfed if unfed >= 0 else None,
        is_late == 1,
    )
