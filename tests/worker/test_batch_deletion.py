"""The chore deletes uploads that were given up, batches whose time is over, and what is left."""

from typing import Final

import pytest

from shared import ids
from shared.clock import SystemClock
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import (
    BatchBegun,
    BeginBatchAsk,
    DeleteBatchAsk,
    FinishUploadAsk,
    StopBatchAsk,
    WriteBatchChunkAsk,
)
from shared.settings import RedisSettings, Settings
from worker.batches.work import BatchWork
from worker.chores import batches as chore

_LONG_MS: Final = 3_600_000


class _Stored:
    """Batches of the last partition, in a Redis without workers."""

    def __init__(self, redis: Redis, settings: RedisSettings) -> None:
        self.redis = redis
        self.settings = Settings(redis=settings)
        self.root = keys.partition_root(settings, settings.partitions - 1)

    async def upload(self, chunks: int, upload_ms: int = _LONG_MS, key: str = "k") -> str:
        """Store chunks of an upload that has not ended."""
        batch = ids.new_id()
        begun = await functions.begin_batch(
            self.redis,
            self.root,
            BeginBatchAsk(
                account="ann",
                batch=batch,
                key="key-1",
                per_minute=1_000,
                open_max=1_000,
                stored_bytes_max=1_000_000_000,
                upload_ms=upload_ms,
                idempotency=key,
            ),
        )
        assert isinstance(begun, BatchBegun)
        for chunk in range(chunks):
            ask = WriteBatchChunkAsk(
                account="ann",
                batch=batch,
                chunk=chunk,
                items=1,
                upload_ms=upload_ms,
                stored_bytes_max=1_000_000_000,
            )
            await functions.write_batch_chunk(self.redis, self.root, ask, b"chunk")
        return batch

    async def ended(self, chunks: int, delete_at: int) -> str:
        """Store a batch that has ended."""
        batch = await self.upload(chunks)
        ask = FinishUploadAsk(
            account="ann",
            batch=batch,
            total=chunks,
            invalid=0,
            chunks=chunks,
            deadline_ms=_LONG_MS,
            fingerprint="f",
        )
        await functions.finish_upload(self.redis, self.root, ask, range(chunks))
        where, name = keys.BATCH(self.root, "ann", batch), f"ann:{batch}"
        await self.redis.call("HSET", where, "state", "completed", "delete_at", delete_at)
        await self.redis.call("ZREM", keys.OPEN_BATCHES(self.root, "ann"), batch)
        await self.redis.call("ZADD", keys.BATCH_WORK(self.root), delete_at, name)
        return batch

    async def look_after(self) -> int:
        """Run the chore once, now."""
        work = BatchWork(self.redis, self.settings, SystemClock())
        seconds, micros = await self.redis.call("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000 + 1
        return await chore.look_after(self.redis, self.settings.redis, work, now)

    async def left(self) -> list[str]:
        """Return the names of all keys of batches."""
        names: list[bytes] = await self.redis.call("KEYS", f"{self.root}*")
        return [name.decode() for name in names if b":batch" in name or b":idem" in name]


@pytest.fixture
def stored(redis: Redis, redis_settings: RedisSettings) -> _Stored:
    return _Stored(redis, redis_settings)


async def test_an_upload_that_was_given_up_is_deleted(stored: _Stored) -> None:
    await stored.upload(70, upload_ms=0)
    assert await stored.look_after() == 1
    assert await stored.left() == []
    assert await stored.look_after() == 0


async def test_an_upload_under_way_stays(stored: _Stored) -> None:
    await stored.upload(2)
    assert await stored.look_after() == 0
    assert any(":batch-items:" in name for name in await stored.left())


async def test_a_batch_stays_until_its_retention_is_over(stored: _Stored) -> None:
    now = SystemClock().now_ms()
    kept = await stored.ended(3, now + _LONG_MS)
    assert await stored.look_after() == 0
    where, name = keys.BATCH(stored.root, "ann", kept), f"ann:{kept}"
    await stored.redis.call("HSET", where, "delete_at", now - 1)
    await stored.redis.call("ZADD", keys.BATCH_WORK(stored.root), now - 1, name)
    assert await stored.look_after() == 1
    assert await stored.left() == []


async def test_what_a_deletion_left_is_deleted(stored: _Stored) -> None:
    batch = await stored.ended(70, SystemClock().now_ms() + _LONG_MS)
    ask = DeleteBatchAsk(account="ann", batch=batch)
    assert await functions.delete_batch(stored.redis, stored.root, ask) == "deleting"
    assert len(await stored.left()) > 70
    assert await stored.look_after() == 1
    assert await stored.left() == []


@pytest.mark.parametrize("family", [keys.BATCH, keys.BATCH_WINDOW])
async def test_a_damaged_batch_holds_up_none_that_is_due_later(
    stored: _Stored, family: keys.Key
) -> None:
    damaged = await stored.ended(1, 1)
    await stored.redis.call("HSET", keys.BATCH(stored.root, "ann", damaged), "state", "running")
    where = family(stored.root, "ann", damaged)
    await stored.redis.call("DEL", where)
    await stored.redis.call("RPUSH", where, "x")
    due = await stored.upload(2, upload_ms=0, key="other")
    await stored.redis.call("ZADD", keys.BATCH_WORK(stored.root), 2, f"ann:{due}")
    assert await stored.look_after() == 2
    assert [name for name in await stored.left() if due in name] == []
    # It is tried again, later.
    assert await stored.look_after() == 0
    assert await stored.redis.call("ZSCORE", keys.BATCH_WORK(stored.root), f"ann:{damaged}")
    left = await stored.left()
    await stored.redis.call("DEL", *left, keys.ACCOUNT_TOTALS(stored.root, "ann"))


async def test_a_damaged_upload_is_none_that_is_under_way(stored: _Stored) -> None:
    batch = await stored.upload(1, upload_ms=0)
    name = keys.BATCH(stored.root, "ann", batch)
    await stored.redis.call("HSET", name, "seq", "many")
    ask = StopBatchAsk(account="ann", batch=batch, stop="cancelled")
    await functions.stop_batch(stored.redis, stored.root, ask)
    assert await stored.redis.call("HGET", name, "state") == b"failed"
    totals = keys.ACCOUNT_TOTALS(stored.root, "ann")
    assert int(await stored.redis.call("HGET", totals, "batch_uploads")) == 0
    await stored.redis.call("DEL", *await stored.left(), totals)
