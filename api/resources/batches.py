"""Finds and lists an account's batches, in any dialect.

A batch that is not the account's is refused as unknown.
"""

from api import errors
from api.endpoints import parameters
from api.endpoints.endpoint import RequestContext
from shared.stores import batches, idempotency_records
from shared.stores.batches import BatchRef
from shared.wire.batch import Batch


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
    record = await idempotency_records.find(*where, idempotency_records.hash_key(key))
    if record is None or record.batch is None:
        return None
    return await batches.find(redis, BatchRef(caller.root, caller.account.id, record.batch))
