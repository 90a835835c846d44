"""An item of a batch as a generation, while there is no record of it.

It has none before it enters the queue, and none once its results are folded; in between it is found
as any other generation. Owns how it looks then: it waits behind all items before it, or it has
ended as the batch's results say. Of an item that runs again, each of its ids shows the same.
"""

from typing import Final, Literal

from api.generation_ref import GenerationRef
from shared.clock import Clock
from shared.redis.client import Redis
from shared.stores import batches
from shared.stores.batches import BatchRef, BatchResults
from shared.wire.batch import Batch, BatchItem, ItemRef, ItemResult, ItemState
from shared.wire.generation import Generation, QueuePosition
from shared.wire.message import AssistantMessage, UserMessage, decode_assistant
from shared.wire.submission import AUTO

_ENDS: Final[dict[ItemState, Literal["completed", "failed", "cancelled"]]] = {
    "completed": "completed",
    "failed": "failed",
    "expired": "failed",
    "cancelled": "cancelled",
}
# How many events it had is not kept: a follower gets a snapshot and the end.
_END: Final = "1-2"


class BatchItems:
    """Finds items of batches that have no record."""

    def __init__(self, redis: Redis, results: BatchResults, clock: Clock) -> None:
        self._redis = redis
        self._results = results
        self._clock = clock

    async def find(self, ref: GenerationRef) -> Generation | None:
        """Return an account's item by its id; None where that names none."""
        item = ItemRef.of(ref.id)
        if item is None or item.generation != ref.id:
            return None
        where = BatchRef(ref.root, ref.account, item.batch)
        batch = await batches.find(self._redis, where)
        if batch is None or batch.state == "validating" or item.index >= batch.total:
            return None
        if item.run > 1 and not batch.retried_seq:
            return None
        chunk = await self._results.chunk_of(where, batch, item.index)
        found = await self._results.read(where, batch, chunk)
        if not found.results:
            return None
        result = found.results[item.index - found.first]
        if result is not None:
            return _ended(ref.id, batch, result)
        asked = await self._results.waiting_item(where, chunk, item.index - found.first)
        return self._waiting(item, batch, asked)

    def _waiting(self, item: ItemRef, batch: Batch, asked: BatchItem | None) -> Generation:
        before = batch.open + max(0, item.index - batch.position)
        return Generation(
            id=item.generation,
            seen=self._clock.now_ms(),
            session=None,
            turn=1,
            lane="batch",
            stage="queued",
            model=(asked.model if asked is not None else "") or AUTO,
            attempt=0,
            accepted=batch.created,
            ahead=before,
            position=QueuePosition(ahead=before),
            user=None if asked is None else _user(item.generation, batch, asked),
        )


def _ended(id_: str, batch: Batch, result: ItemResult) -> Generation:
    if result.answer:
        answer = decode_assistant(result.answer)
    else:
        answer = AssistantMessage(
            status=_ENDS[result.state],
            content="",
            created=batch.finished or batch.created,
            failure=batches.failure(result, None),
        )
    return Generation(
        id=id_,
        session=None,
        turn=1,
        lane="batch",
        stage=_ENDS[result.state],
        model=AUTO if answer.model is None else answer.model.identifier,
        attempt=1 if result.answer else 0,
        accepted=batch.created,
        finished=answer.created,
        captured=result.captured,
        last_event=_END,
        text=answer.content,
        assistant=answer,
        user=_user(id_, batch, result),
    )


def _user(id_: str, batch: Batch, item: BatchItem | ItemResult) -> UserMessage | None:
    """Return what the caller gave with an item to find it by; its message is not kept."""
    if item.metadata is None and item.project is None:
        return None
    return UserMessage(
        id="",
        generation=id_,
        content="",
        created=batch.created,
        metadata=item.metadata,
        project=item.project,
    )
