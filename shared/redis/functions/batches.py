"""A batch as it is uploaded, and as it is deleted; what becomes of its items is in batch_items."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from shared.errors import StoreError
from shared.redis.client import Connection, Reply
from shared.redis.functions.contract import Ask, Rate, Rejected, text_of
from shared.redis.library import invoke
from shared.wire.batch import BatchState, pack_starts


class BeginBatchAsk(Ask, frozen=True, kw_only=True):
    """A batch whose body arrives from now on; it counts towards the `per_minute` submissions.

    `key` is the id of the API key, `bytes_min` what the body will take at least. An upload that
    stores nothing for `upload_ms` counts as given up. `metadata` is JSON, `max_credits` are
    microcredits.
    """

    account: str
    batch: str
    key: str
    per_minute: int
    open_max: int
    stored_bytes_max: int
    upload_ms: int
    bytes_min: int = 0
    idempotency: str | None = None
    metadata: str | None = None
    max_credits: int | None = None
    dedupe: bool = False
    webhook: str | None = None


class BatchBegun(NamedTuple):
    """The batch may be stored; `rate` is None where a call whose reply was lost was repeated."""

    rate: Rate | None


class BatchKnown(NamedTuple):
    """The Idempotency-Key stands for a batch, made from the body and options with this hash.

    The rest is of the batch's record; `state` is None where it was just deleted. `errors` is JSON.
    """

    batch: str
    fingerprint: str
    state: BatchState | None = None
    total: int = 0
    invalid: int = 0
    copies: int = 0
    errors: bytes | None = None


class UploadUnderWay(NamedTuple):
    """Another upload has the Idempotency-Key; without a sign of it, it is given up in this time."""

    retry_ms: int


async def begin_batch(
    redis: Connection, root: str, ask: BeginBatchAsk
) -> BatchBegun | BatchKnown | UploadUnderWay | Rejected:
    """Begin an upload; Rejected for a key of another request, or beyond the limit or a quota."""
    reply: list[Reply] = await invoke(redis, "begin_batch", root, ask)
    match [text_of(reply[0]), *reply[1:]]:
        case ["begun", rate]:
            return BatchBegun(Rate(*rate))
        case ["begun"]:
            return BatchBegun(None)
        case ["known", *known]:
            return _known(*known)
        case ["uploading", retry_ms]:
            return UploadUnderWay(int(retry_ms))
        case ["mismatch"]:
            return Rejected("mismatch")
        case ["limited", rate]:
            return Rejected("limited", rate=Rate(*rate))
        case ["quota", which, used, rate]:
            return Rejected("quota", text_of(which), Rate(*rate), used=int(used))
        case _:
            raise StoreError(f"begin_batch answered {reply!r}")


def _known(batch: bytes, fingerprint: bytes, state: bytes | None, *rest: Reply) -> BatchKnown:
    if state is None:
        return BatchKnown(text_of(batch), text_of(fingerprint))
    total, invalid, copies, errors = rest
    return BatchKnown(
        text_of(batch),
        text_of(fingerprint),
        msgspec.convert(text_of(state), BatchState),
        int(total or 0),
        int(invalid or 0),
        int(copies or 0),
        errors,
    )


class WriteBatchChunkAsk(Ask, frozen=True, kw_only=True):
    """A chunk of so many items, by its number from 0; an empty one only renews the upload."""

    account: str
    batch: str
    chunk: int
    items: int
    upload_ms: int
    stored_bytes_max: int


class StoredBytesExceeded(NamedTuple):
    """With the chunk the account would store more than it may; `used` bytes are stored."""

    used: int


async def write_batch_chunk(
    redis: Connection, root: str, ask: WriteBatchChunkAsk, chunk: bytes
) -> Literal["written", "gone"] | StoredBytesExceeded:
    """Store a chunk and renew the upload; safe to repeat. `gone`: the upload was given up."""
    reply: list[Reply] = await invoke(redis, "write_batch_chunk", root, ask, blob=chunk)
    match [text_of(reply[0]), *reply[1:]]:
        case ["written"]:
            return "written"
        case ["gone"]:
            return "gone"
        case ["quota", used]:
            return StoredBytesExceeded(int(used))
        case _:
            raise StoreError(f"write_batch_chunk answered {reply!r}")


class FinishUploadAsk(Ask, frozen=True, kw_only=True):
    """What was uploaded: items, how many of them are invalid, chunks, and the hash of the request.

    `errors` is JSON: what is wrong with the first invalid items. `copies` are beside the `total`,
    and stored in chunks behind the `chunks` of items; from `copies_chunk` on, these are counts.
    """

    account: str
    batch: str
    total: int
    invalid: int
    chunks: int
    deadline_ms: int
    fingerprint: str | None = None
    errors: str | None = None
    copies: int = 0
    copies_chunk: int | None = None


async def finish_upload(
    redis: Connection, root: str, ask: FinishUploadAsk, starts: Sequence[int]
) -> int | None:
    """Let a batch run; return when it began, in ms, or None where the upload was given up.

    `starts` are the indexes of the first items of the chunks.
    """
    blob = pack_starts(starts)
    reply: list[Reply] = await invoke(redis, "finish_upload", root, ask, blob=blob)
    match [text_of(reply[0]), *reply[1:]]:
        case ["running", started]:
            return int(started)
        case ["gone"]:
            return None
        case _:
            raise StoreError(f"finish_upload answered {reply!r}")


class DeleteBatchAsk(Ask, frozen=True, kw_only=True):
    """Which batch to delete; `is_due`: only where its upload was given up or its time is over."""

    account: str
    batch: str
    is_due: bool = False


async def delete_batch(
    redis: Connection, root: str, ask: DeleteBatchAsk
) -> Literal["deleting", "running", "unknown"]:
    """Take a batch out of its account's list; its chunks are left to `delete_batch_pieces`."""
    answer = text_of(await invoke(redis, "delete_batch", root, ask))
    match answer:
        case "deleting" | "running" | "unknown":
            return answer
        case _:
            raise StoreError(f"delete_batch answered {answer!r}")


class DeleteBatchPiecesAsk(Ask, frozen=True, kw_only=True):
    """Of which deleted batch to delete chunks."""

    account: str
    batch: str


async def delete_batch_pieces(redis: Connection, root: str, ask: DeleteBatchPiecesAsk) -> int:
    """Delete some chunks of a deleted batch; return how many are left."""
    return int(await invoke(redis, "delete_batch_pieces", root, ask))
