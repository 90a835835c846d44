"""Looks after batches where no settlement or request did what is due, and deletes what is over.

Takes entries of `batch-work` that are due: a batch whose feeder died, whose deadline has passed,
that waits for credits or memory, or that was stopped; and chunks that nobody packed. Deletes an
upload that was given up, a batch whose retention is over, and what is left of a deleted one.
"""

from typing import Final

from shared.errors import UnavailableError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import DeleteBatchAsk, DeleteBatchPiecesAsk
from shared.settings import RedisSettings
from worker.batches.work import BatchWork
from worker.partition_guard import PartitionGuard

_BATCHES_AT_ONCE: Final = 100
# When a batch whose work failed is tried again, so that it holds up none behind it.
_TRY_AGAIN_MS: Final = 5_000


async def look_after(
    redis: Connection, settings: RedisSettings, work: BatchWork, now_ms: int
) -> int:
    """Do what is due for batches; return how many were looked at."""
    count = 0
    partition_guard = PartitionGuard()
    for partition in range(settings.partitions):
        root = keys.partition_root(settings, partition)
        with partition_guard("batches", partition):
            due: list[bytes] = await redis.call(
                "ZRANGE", keys.BATCH_WORK(root), "-inf", now_ms, "BYSCORE", "LIMIT", 0,
                _BATCHES_AT_ONCE,
            )  # fmt: skip
            for name in due:
                with partition_guard("a batch", partition):
                    await _look_at(redis, root, name, work, now_ms)
            await work.pack_ended(root)
            count += len(due)
    return count


async def _look_at(redis: Connection, root: str, name: bytes, work: BatchWork, now_ms: int) -> None:
    account, _, batch = name.decode().partition(":")
    try:
        if not await _delete_due(redis, root, account, batch):
            await work.advance(root, account, batch)
    except UnavailableError:
        raise
    except Exception:
        at = now_ms + _TRY_AGAIN_MS
        await redis.call("ZADD", keys.BATCH_WORK(root), "XX", "GT", at, name)
        raise


async def _delete_due(redis: Connection, root: str, account: str, batch: str) -> bool:
    """Delete a batch that nobody may read any more; return whether it was one."""
    ask = DeleteBatchAsk(account=account, batch=batch, is_due=True)
    if await functions.delete_batch(redis, root, ask) != "deleting":
        return False
    pieces = DeleteBatchPiecesAsk(account=account, batch=batch)
    while await functions.delete_batch_pieces(redis, root, pieces):
        pass
    return True
