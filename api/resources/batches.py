"""Finds, lists, pauses, resumes, retries, cancels and deletes an account's batches, in any dialect.

A batch that is not the account's is refused as unknown. A cancel is answered at once whatever the
size; what is open is ended after that. A batch that runs is deleted once its last item has ended.
"""

from typing import Final

from api import errors
from api.endpoints import parameters
from api.endpoints.endpoint import RequestContext
from shared.errors import Code, RefusedError, RequestError
from shared.redis import functions
from shared.redis.functions import (
    BatchConflict,
    DeleteBatchAsk,
    PauseBatchAsk,
    ResumeBatchAsk,
    RetryBatchAsk,
    RetryQuotaReached,
    StopBatchAsk,
)
from shared.stores import batches, idempotency_records
from shared.stores.batches import BatchRef
from shared.wire.batch import Batch, BatchState

# How long a deletion waits for the workers that run items to stop.
_DELETION_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.05


async def load(context: RequestContext) -> Batch:
    """Return the path's batch. Raises RequestError (BATCH_NOT_FOUND)."""
    found = await batches.find(context.state.redis, parameters.batch_ref(context))
    if found is None:
        raise errors.unknown_batch()
    return found


async def page(context: RequestContext, *, offset: int, limit: int) -> tuple[list[Batch], int]:
    """Return the account's batches, the newest first, and how many there are."""
    caller = context.caller
    return await batches.page(
        context.state.redis, caller.root, caller.account.id, offset=offset, limit=limit
    )


async def find_by_key(context: RequestContext, key: str) -> Batch | None:
    """Return the batch that was made with an Idempotency-Key, or None."""
    redis, caller = context.state.redis, context.caller
    where = (redis, caller.root, caller.account.id)
    # A key that is no ASCII: in its header, each byte of its UTF-8 is a character.
    for each in dict.fromkeys((key, key.encode().decode("latin-1"))):
        record = await idempotency_records.find(*where, idempotency_records.hash_key(each))
        if record is not None and record.batch is not None:
            return await batches.find(redis, BatchRef(caller.root, caller.account.id, record.batch))
    return None


async def pause(context: RequestContext) -> Batch:
    """Let no more items of the path's batch enter the queue.

    Raises RequestError (BATCH_NOT_FOUND, ALREADY_FINISHED).
    """
    ref = parameters.batch_ref(context)
    ask = PauseBatchAsk(account=ref.account, batch=ref.id)
    _check_changed(await functions.pause_batch(context.state.redis, ref.root, ask))
    return await load(context)


async def resume(context: RequestContext, max_credits: int | None) -> Batch:
    """Let items of the path's batch enter the queue again; `max_credits` is its new limit, if any.

    Raises RequestError (BATCH_NOT_FOUND, ALREADY_FINISHED).
    """
    ref = parameters.batch_ref(context)
    ask = ResumeBatchAsk(account=ref.account, batch=ref.id, max_credits=max_credits)
    _check_changed(await functions.resume_batch(context.state.redis, ref.root, ask))
    context.state.batch_tasks.begin_feed(ref.root, ref.account)
    return await load(context)


async def retry(context: RequestContext) -> Batch:
    """Run the failed items of the path's batch again.

    Raises RequestError (BATCH_NOT_FOUND, ALREADY_FINISHED), RefusedError (QUOTA_EXCEEDED).
    """
    ref = parameters.batch_ref(context)
    limit = context.state.settings.limits.of(context.caller.account.tier).open_batches_max
    ask = RetryBatchAsk(account=ref.account, batch=ref.id, open_max=limit)
    changed = await functions.retry_batch(context.state.redis, ref.root, ask)
    if isinstance(changed, RetryQuotaReached):
        is_open = changed.quota == "open_batches"
        problem = (
            "The account has {:,} batches that have not ended" if is_open else "It ran {:,} times"
        )
        raise RefusedError(
            f"{problem.format(changed.used)}; no more are allowed.",
            Code.QUOTA_EXCEEDED,
            details={"quota": changed.quota, "used": changed.used, "limit": changed.used},
        )
    _check_changed(changed)
    context.state.batch_tasks.begin_feed(ref.root, ref.account)
    return await load(context)


async def cancel(context: RequestContext) -> Batch:
    """Stop the path's batch.

    Raises RequestError (BATCH_NOT_FOUND; ALREADY_FINISHED if it has ended otherwise, or arrives).
    """
    ref = parameters.batch_ref(context)
    ask = StopBatchAsk(account=ref.account, batch=ref.id, stop="cancelled")
    stopped = await functions.stop_batch(context.state.redis, ref.root, ask)
    if stopped is None:
        raise errors.unknown_batch()
    if not stopped.is_stopping and stopped.state != "cancelled":
        raise _conflict(stopped.state)
    if stopped.is_stopping:
        context.state.batch_tasks.begin_end_of_open(ref)
    return await load(context)


async def delete(context: RequestContext) -> str:
    """Cancel the path's batch if it runs, and delete it. Return its id.

    Where workers take their time to stop, the rest is done when they have.

    Raises:
        RequestError: BATCH_NOT_FOUND.
    """
    state, ref = context.state, parameters.batch_ref(context)
    ask = DeleteBatchAsk(account=ref.account, batch=ref.id)
    ends = state.clock.monotonic() + _DELETION_SECONDS
    has_stopped = False
    while (outcome := await functions.delete_batch(state.redis, ref.root, ask)) == "running":
        if not has_stopped:
            stop = StopBatchAsk(
                account=ref.account, batch=ref.id, stop="cancelled", is_deleted=True
            )
            await functions.stop_batch(state.redis, ref.root, stop)
            await state.batch_tasks.end_open(ref)
            has_stopped = True
            continue
        if state.clock.monotonic() >= ends:
            return ref.id
        await state.clock.sleep(_LOOK_SECONDS)
    if outcome == "unknown" and not has_stopped:
        raise errors.unknown_batch()
    state.batch_tasks.begin_deletion_of_chunks(ref)
    return ref.id


def _check_changed(changed: BatchState | BatchConflict | None) -> None:
    if changed is None:
        raise errors.unknown_batch()
    if isinstance(changed, BatchConflict):
        raise _conflict(changed.state)


def _conflict(state: BatchState) -> RequestError:
    return RequestError(
        f"This cannot be done with a batch that is {state}.",
        Code.ALREADY_FINISHED,
        details={"state": state},
    )
