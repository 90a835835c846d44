"""A batch is stored chunk by chunk, runs once its body has ended, and is deleted in pieces."""

import asyncio
from typing import Any, Final

import msgspec
import pytest

from shared import ids
from shared.redis import functions, keys
from shared.redis.functions import (
    BatchBegun,
    BatchKnown,
    BeginBatchAsk,
    DeleteBatchAsk,
    DeleteBatchPiecesAsk,
    FinishUploadAsk,
    Rejected,
    StoredBytesExceeded,
    UploadUnderWay,
    WriteBatchChunkAsk,
)
from tests.support.redis_functions import RedisFunctions

_LONG_MS: Final = 60_000
_CHUNK: Final = b"c" * 100


async def _begin(queue: RedisFunctions, batch: str, **changes: Any) -> object:  # noqa: ANN401  fields of the ask
    ask = BeginBatchAsk(
        account="ann",
        batch=batch,
        key="key-1",
        per_minute=60_000,
        open_max=10,
        stored_bytes_max=1_000_000,
        upload_ms=_LONG_MS,
    )
    return await functions.begin_batch(
        queue.redis, queue.root, msgspec.structs.replace(ask, **changes)
    )


async def _write(
    queue: RedisFunctions,
    batch: str,
    chunk: int,
    content: bytes = _CHUNK,
    **changes: Any,  # noqa: ANN401  fields of the ask
) -> object:
    ask = WriteBatchChunkAsk(
        account="ann",
        batch=batch,
        chunk=chunk,
        items=3,
        upload_ms=_LONG_MS,
        stored_bytes_max=1_000_000,
    )
    return await functions.write_batch_chunk(
        queue.redis, queue.root, msgspec.structs.replace(ask, **changes), content
    )


async def _finish(
    queue: RedisFunctions, batch: str, chunks: int, fingerprint: str | None = None
) -> int | None:
    ask = FinishUploadAsk(
        account="ann",
        batch=batch,
        total=3 * chunks,
        invalid=0,
        chunks=chunks,
        deadline_ms=_LONG_MS,
        fingerprint=fingerprint,
    )
    starts = [3 * chunk for chunk in range(chunks)]
    return await functions.finish_upload(queue.redis, queue.root, ask, starts)


async def _stored(queue: RedisFunctions, *, chunks: int = 2, **changes: Any) -> str:  # noqa: ANN401  fields of the ask
    batch = ids.new_id()
    assert isinstance(await _begin(queue, batch, **changes), BatchBegun)
    for chunk in range(chunks):
        assert await _write(queue, batch, chunk) == "written"
    return batch


async def _record(queue: RedisFunctions, batch: str) -> dict[str, str]:
    found: dict[bytes, bytes] = await queue.redis.call(
        "HGETALL", keys.BATCH(queue.root, "ann", batch)
    )
    return {name.decode(): value.decode() for name, value in found.items()}


async def _totals(queue: RedisFunctions) -> tuple[int, int]:
    found = await queue.redis.call(
        "HMGET", keys.ACCOUNT_TOTALS(queue.root, "ann"), "stored_batches", "batch_uploads"
    )
    return int(found[0] or 0), int(found[1] or 0)


async def _end(queue: RedisFunctions, batch: str, delete_at: int = 0) -> None:
    """End a batch, as its last item does."""
    where = keys.BATCH(queue.root, "ann", batch)
    await queue.redis.call("HSET", where, "state", "completed", "delete_at", delete_at)
    await queue.redis.call("ZREM", keys.OPEN_BATCHES(queue.root, "ann"), batch)


async def _delete(queue: RedisFunctions, batch: str, *, is_due: bool = False) -> str:
    ask = DeleteBatchAsk(account="ann", batch=batch, is_due=is_due)
    return await functions.delete_batch(queue.redis, queue.root, ask)


async def _delete_wholly(queue: RedisFunctions, batch: str) -> int:
    assert await _delete(queue, batch) == "deleting"
    count = 1
    ask = DeleteBatchPiecesAsk(account="ann", batch=batch)
    while await functions.delete_batch_pieces(queue.redis, queue.root, ask):
        count += 1
    return count


async def _names(queue: RedisFunctions, batch: str) -> list[bytes]:
    _, names = await queue.redis.call(
        "SCAN", 0, "MATCH", f"{queue.root}*{batch}*", "COUNT", 100_000
    )
    return list(names)


async def test_an_upload_stores_chunks_and_runs_at_its_end(queue: RedisFunctions) -> None:
    batch = await _stored(queue, metadata='{"a":"b"}', max_credits=5, dedupe=True, webhook="w")
    assert await _totals(queue) == (200, 1)
    record = await _record(queue, batch)
    assert (record["state"], record["total"], record["chunks"]) == ("validating", "6", "2")
    assert await queue.redis.call("ZCARD", keys.OPEN_BATCHES(queue.root, "ann")) == 0
    started = await _finish(queue, batch, 2)
    record = await _record(queue, batch)
    assert record["state"] == "running"
    assert int(record["deadline"]) == int(record["started"]) + _LONG_MS == (started or 0) + _LONG_MS
    assert "upload_ends" not in record
    assert (record["metadata"], record["max_credits"], record["dedupe"], record["webhook"]) == (
        '{"a":"b"}', "5", "1", "w",
    )  # fmt: skip
    due = await queue.redis.call("ZSCORE", keys.BATCH_WORK(queue.root), f"ann:{batch}")
    # The chore lets its items enter the queue, should the caller die before it does.
    assert int(due) == int(record["started"])
    assert await _totals(queue) == (208, 0)
    stored = await queue.redis.call("GET", keys.BATCH_ITEMS(queue.root, "ann", batch, 1))
    assert stored == _CHUNK


async def test_every_call_of_an_upload_may_be_repeated(queue: RedisFunctions) -> None:
    batch = await _stored(queue, chunks=1)
    assert await _begin(queue, batch) == BatchBegun(None)
    assert await _write(queue, batch, 0, b"another") == "written"
    assert await _totals(queue) == (100, 1)
    first = await _finish(queue, batch, 1)
    assert first is not None
    assert await _finish(queue, batch, 1) == first
    assert await _totals(queue) == (104, 0)
    await _end(queue, batch)
    assert await _finish(queue, batch, 1) == first
    assert await _delete(queue, batch) == await _delete(queue, batch) == "deleting"
    assert await _totals(queue) == (0, 0)


async def test_an_upload_that_was_deleted_stores_nothing_more(queue: RedisFunctions) -> None:
    batch = await _stored(queue)
    await _delete_wholly(queue, batch)
    assert await _write(queue, batch, 2) == "gone"
    assert await _finish(queue, batch, 2) is None
    assert await _names(queue, batch) == []
    assert await _totals(queue) == (0, 0)
    assert await _delete(queue, batch) == "unknown"


async def test_an_upload_runs_only_with_all_of_its_chunks(queue: RedisFunctions) -> None:
    batch = await _stored(queue, chunks=1)
    assert await _finish(queue, batch, 2) is None
    assert (await _record(queue, batch))["state"] == "validating"


async def test_uploads_count_as_open_batches(queue: RedisFunctions) -> None:
    first, second = await _stored(queue), await _stored(queue)
    refused = await _begin(queue, ids.new_id(), open_max=2)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.about, refused.used) == ("quota", "open_batches", 2)
    await _finish(queue, first, 2)
    assert isinstance(await _begin(queue, ids.new_id(), open_max=2), Rejected)
    await _delete_wholly(queue, second)
    assert isinstance(await _begin(queue, ids.new_id(), open_max=2), BatchBegun)


async def test_batches_count_in_the_stored_bytes_of_every_creation(queue: RedisFunctions) -> None:
    batch = await _stored(queue, chunks=5)
    refused = await _begin(queue, ids.new_id(), stored_bytes_max=600, bytes_min=101)
    assert isinstance(refused, Rejected)
    assert (refused.about, refused.used) == ("stored_bytes", 500)
    assert await _write(queue, batch, 5, stored_bytes_max=599) == StoredBytesExceeded(500)
    assert await _write(queue, batch, 5, stored_bytes_max=600) == "written"
    chat = await queue.accept(stored_bytes_max=620)
    assert isinstance(chat, Rejected)
    assert (chat.reason, chat.about, chat.used) == ("quota", "stored_bytes", 600)
    await _delete_wholly(queue, batch)
    assert not isinstance(await queue.accept(stored_bytes_max=620), Rejected)


async def test_a_begun_batch_counts_as_a_submission(queue: RedisFunctions) -> None:
    assert isinstance(await _begin(queue, ids.new_id(), per_minute=1), BatchBegun)
    refused = await _begin(queue, ids.new_id(), per_minute=1)
    assert isinstance(refused, Rejected)
    assert refused.reason == "limited"


async def test_a_key_is_bound_when_the_body_has_ended(queue: RedisFunctions) -> None:
    batch = await _stored(queue, idempotency="k")
    under_way = await _begin(queue, ids.new_id(), idempotency="k")
    assert isinstance(under_way, UploadUnderWay)
    assert 0 < under_way.retry_ms <= _LONG_MS
    # Meanwhile no other request may take it, whatever it creates.
    chat = await queue.accept(idempotency="k", fingerprint="x")
    assert isinstance(chat, Rejected)
    assert chat.reason == "mismatch"
    await _finish(queue, batch, 2, "print")
    known = BatchKnown(batch, "print", "running", 6)
    assert await _begin(queue, ids.new_id(), idempotency="k") == known
    receipt = keys.IDEMPOTENCY(queue.root, "ann", "k")
    assert await queue.redis.call("PTTL", receipt) == -1
    await _end(queue, batch)
    ended = known._replace(state="completed")
    assert await _begin(queue, ids.new_id(), idempotency="k") == ended
    record = keys.BATCH(queue.root, "ann", batch)
    await queue.redis.call("RENAME", record, f"{record}:away")
    gone = BatchKnown(batch, "print")
    assert await _begin(queue, ids.new_id(), idempotency="k") == gone
    await queue.redis.call("RENAME", f"{record}:away", record)
    await _delete_wholly(queue, batch)
    assert await queue.redis.call("EXISTS", receipt) == 0


async def test_a_broken_upload_frees_its_key(queue: RedisFunctions) -> None:
    batch = await _stored(queue, idempotency="k")
    await _delete_wholly(queue, batch)
    assert isinstance(await _begin(queue, ids.new_id(), idempotency="k"), BatchBegun)


async def test_a_key_of_another_request_is_refused(queue: RedisFunctions) -> None:
    await queue.submit(idempotency="k")
    refused = await _begin(queue, ids.new_id(), idempotency="k")
    assert isinstance(refused, Rejected)
    assert refused.reason == "mismatch"


async def test_an_upload_without_a_sign_of_life_loses_its_key(queue: RedisFunctions) -> None:
    lost = await _stored(queue, idempotency="k", upload_ms=0)
    # The last chunk renewed it for long; its process is gone.
    assert await _write(queue, lost, 2, b"", upload_ms=0) == "written"
    taken = await _stored(queue, idempotency="k")
    assert await _finish(queue, lost, 2, "late") is None
    assert await _delete(queue, lost, is_due=True) == "deleting"
    assert await _finish(queue, taken, 2, "print") is not None
    assert await _begin(queue, ids.new_id(), idempotency="k") == BatchKnown(
        taken, "print", "running", 6
    )


async def test_only_what_is_due_is_deleted_by_time(queue: RedisFunctions) -> None:
    batch = await _stored(queue)
    assert await _delete(queue, batch, is_due=True) == "running"
    await _finish(queue, batch, 2)
    assert await _delete(queue, batch) == await _delete(queue, batch, is_due=True) == "running"
    seconds, _ = await queue.redis.call("TIME")
    await _end(queue, batch, (int(seconds) + 60) * 1000)
    assert await _delete(queue, batch, is_due=True) == "running"
    await _end(queue, batch, int(seconds) * 1000)
    assert await _delete(queue, batch, is_due=True) == "deleting"


@pytest.mark.parametrize("chunks", [0, 1, 32, 33, 100])
async def test_a_batch_is_deleted_in_pieces_and_leaves_nothing(
    queue: RedisFunctions, chunks: int
) -> None:
    batch = await _stored(queue, chunks=chunks)
    await _finish(queue, batch, chunks)
    for chunk in range(chunks):
        await queue.redis.call("SET", keys.BATCH_RESULTS(queue.root, "ann", batch, chunk), b"r")
    await queue.redis.call("SET", keys.BATCH_ORDER(queue.root, "ann", batch), b"1234")
    await _end(queue, batch)
    assert await _delete_wholly(queue, batch) == max(1, -(-chunks // 32))
    assert await _names(queue, batch) == []
    assert await queue.redis.call("ZCARD", keys.BATCH_WORK(queue.root)) == 0
    assert await _totals(queue) == (0, 0)


async def test_chunks_of_a_batch_that_exists_are_never_deleted(queue: RedisFunctions) -> None:
    batch = await _stored(queue)
    await _finish(queue, batch, 2)
    ask = DeleteBatchPiecesAsk(account="ann", batch=batch)
    assert await functions.delete_batch_pieces(queue.redis, queue.root, ask) == 0
    assert await queue.redis.call("EXISTS", keys.BATCH_ITEMS(queue.root, "ann", batch, 0)) == 1


async def test_of_many_uploads_with_one_key_one_begins(queue: RedisFunctions) -> None:
    begun = await asyncio.gather(
        *(_begin(queue, ids.new_id(), idempotency="k", open_max=1_000) for _ in range(50))
    )
    assert [type(each) for each in begun].count(BatchBegun) == 1
    assert [type(each) for each in begun].count(UploadUnderWay) == 49
