"""Finds or cancels a generation, and ends one that is overdue: there may be no worker to do it.

Owns two cases: a deadline has passed; or a cancel is pending, the worker's lease has expired, and
no worker is alive. Both end through the Redis functions that end every generation, which check
again and do it once. Where nothing is overdue, a poll costs no extra Redis call.
"""

from contextlib import suppress

import msgspec

from api import errors
from api.generation_ref import GenerationRef
from api.live_fleet import LiveFleet
from api.polling.batch_item import BatchItems
from shared.errors import Code, RequestError, UnavailableError
from shared.redis import functions
from shared.redis.client import Redis
from shared.redis.functions import AlreadyEnded, CancelAsk, Cancelled, ExpireAsk, KeepTimes
from shared.settings import Settings
from shared.stores import generations
from shared.wire.generation import Generation


class CurrentGenerations:
    """Generations as they are now; one that is overdue has ended before it is returned."""

    def __init__(
        self, redis: Redis, settings: Settings, live_fleet: LiveFleet, batch_items: BatchItems
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._live_fleet = live_fleet
        self._batch_items = batch_items

    async def find(self, ref: GenerationRef) -> Generation | None:
        """Return an account's generation, or None; an item of a batch may have no record."""
        generation = await generations.find(self._redis, *ref)
        if generation is None:
            return await self._batch_items.find(ref)
        if not await self._end_if_overdue(ref, generation):
            return generation
        return await generations.find(self._redis, *ref)

    async def cancel(self, ref: GenerationRef) -> Cancelled | AlreadyEnded:
        """Cancel a generation; with its lease expired and no worker alive, it ends at once.

        Raises:
            RequestError: GENERATION_NOT_FOUND; FEATURE_UNAVAILABLE for an item of a batch that has
                not entered the queue.

        """
        root, account, generation = ref
        ask = CancelAsk.of(self._settings, account, generation)
        done = await functions.cancel(self._redis, root, ask)
        if done is None:
            return await self._ended_item(ref)
        if not isinstance(done, Cancelled) or done.refunded is not None:
            return done
        # The worker is asked to stop already, even if this second call fails.
        with suppress(UnavailableError):
            if await self._has_no_live_worker():
                end = msgspec.structs.replace(ask, is_abandoned=True)
                again = await functions.cancel(self._redis, root, end)
                return again if isinstance(again, Cancelled) else done
        return done

    async def _ended_item(self, ref: GenerationRef) -> AlreadyEnded:
        item = await self._batch_items.find(ref)
        if item is None:
            raise errors.unknown_generation()
        if item.is_final:
            return AlreadyEnded(item.stage)
        raise RequestError(
            "The item waits in its batch; only the batch as a whole can be cancelled now.",
            Code.FEATURE_UNAVAILABLE,
        )

    async def _end_if_overdue(self, ref: GenerationRef, generation: Generation) -> bool:
        """End a generation that is overdue. Return whether it has ended by now."""
        root, account, id_ = ref
        if generation.is_past_deadline:
            keep = KeepTimes.of(self._settings.retention)
            return await functions.expire(
                self._redis, root, ExpireAsk(account=account, id=id_, keep=keep)
            )
        if generation.is_cancelling and await self._has_no_live_worker():
            stop = CancelAsk.of(self._settings, account, id_, is_abandoned=True)
            return await functions.cancel(self._redis, root, stop) != Cancelled(None)
        return False

    async def _has_no_live_worker(self) -> bool:
        return not (await self._live_fleet.current()).workers
