"""Work for batches that a request begins and does not wait for.

Owns the tasks of this process that let items enter the queue after a batch began or was resumed,
end the open items of one that was stopped, and delete the chunks of one that was deleted. A task
that fails, or dies with the process, leaves the rest to the workers' chore.
"""

import asyncio
from collections.abc import Coroutine

from shared.batches.feed import BatchFeeder
from shared.clock import Clock
from shared.errors import PolluxError
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import DeleteBatchPiecesAsk, EndOpenItemsAsk, KeepTimes
from shared.settings import Settings
from shared.stores.batches import BatchRef
from shared.telemetry import logs


class BatchTasks:
    """The tasks under way; `close` cancels them."""

    def __init__(self, redis: Redis, settings: Settings, clock: Clock) -> None:
        self._redis = redis
        self._settings = settings
        self._feeder = BatchFeeder(redis, settings, clock)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin_feed(self, root: str, account: str) -> None:
        """Let items of an account's batches enter the queue."""
        self._begin(self._feed(root, account))

    def begin_end_of_open(self, ref: BatchRef) -> None:
        """End the open items of a stopped batch."""
        self._begin(self.end_open(ref))

    def begin_deletion_of_chunks(self, ref: BatchRef) -> None:
        """Delete the chunks of a deleted batch."""
        self._begin(self._delete_chunks(ref))

    async def end_open(self, ref: BatchRef) -> int:
        """End the open items of a stopped batch, or ask their workers; return how many are open."""
        cursor: str | None = "0"
        left = 0
        while cursor is not None:
            ask = EndOpenItemsAsk(
                account=ref.account,
                batch=ref.id,
                cursor=cursor,
                keep=KeepTimes.of(self._settings.retention),
                channels=keys.worker_channels(self._settings.redis),
            )
            left, cursor = await functions.end_open_items(self._redis, ref.root, ask)
        return left

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, root: str, account: str) -> None:
        await self._feeder.feed(root, account)

    async def _delete_chunks(self, ref: BatchRef) -> None:
        ask = DeleteBatchPiecesAsk(account=ref.account, batch=ref.id)
        while await functions.delete_batch_pieces(self._redis, ref.root, ask):
            pass

    def _begin(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _logged(work: Coroutine[None, None, object]) -> None:
    try:
        await work
    except PolluxError as error:
        logs.logger().warning("work for batches is left to the workers", error=error.message)
