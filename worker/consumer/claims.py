"""Claims generations from every partition, and blocks for a wakeup when there are none.

Owns which partition is next, how many to claim, on which connection, and which claims were never
answered. Refuses to run what it claims: `start` does.

A claim is never retried. If its reply is lost, nobody knows whether Redis carried it out; so the
worker's next claim lists it as unacknowledged, and Redis requeues what it took. Example: claim 7
took two generations and its reply was lost; claim 8 names 7, gets both back into the queue, and may
claim them itself.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Set as AbstractSet
from contextlib import suppress
from typing import Final

import msgspec

from shared.errors import UnavailableError, WrongTypeError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import ClaimAsk, Claimed, ClaimReply
from shared.settings import Settings
from shared.wire.submission import WIRE, Lane
from worker.consumer.backlog import Backlog
from worker.consumer.slots import Slots
from worker.consumer.wakeup import WakeupConnection
from worker.partition_guard import PartitionGuard

_IDLE_SECONDS: Final = 1.0
_UNBLOCK_SECONDS: Final = 0.05
# A larger claim would block every other client of Redis for milliseconds.
_CLAIM_MAX: Final = 32
_UNACKNOWLEDGED_MAX: Final = 1_000


class Claims:
    """The claims of one worker; `take_work` is called in a loop.

    Reaping reports to `partition_guard`, too: what cannot be reaped is not claimed from.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        redis: Connection,
        slots: Slots,
        start: Callable[[Claimed], None],
        *,
        backlog: Backlog | None = None,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._redis = redis
        self._slots = slots
        self._start = start
        self._backlog = backlog
        self.partition_guard = PartitionGuard()
        self._wakeup = WakeupConnection(settings.redis, _IDLE_SECONDS)
        self._may_have_room = asyncio.Event()
        # Slots for which a claim by `use_free_slot` is under way.
        self._pending_claims = 0
        self._is_ending = False
        self._has_listener = asyncio.Event()
        self._has_listener.set()
        self._claim_number = 0
        self._unacknowledged: defaultdict[str, set[int]] = defaultdict(set)
        # Whether more may be ready; at the start that is unknown.
        self.is_more = True
        self._is_waiting = False
        self._wait_number = 0
        self._must_claim_now = False
        self._polled_at = 0.0
        self._wakes_for_batch = True
        # How many claims are under way that may return suspects.
        self._suspect_claims = 0
        self._next_partition = random.randrange(settings.redis.partitions)  # noqa: S311  only where to begin

    async def close(self) -> None:
        """Close the wakeup connection."""
        await self._wakeup.close()

    def end(self) -> None:
        """Claim no more. A claim under way is not cancelled: it may return work."""
        self._is_ending = True
        self._has_listener.set()
        self._may_have_room.set()
        self._end_wait()

    def claim_now(self) -> None:
        """Claim now: there may be work for this worker for which no wakeup is sent."""
        self._must_claim_now = True
        self._may_have_room.set()
        self._end_wait(self._wait_number)

    def note_ready(self, lanes: AbstractSet[Lane]) -> None:
        """Claim what is still ready although its wakeup went to a worker that could not claim it.

        At most once a second, since this worker may not be able to claim it either.
        """
        now = asyncio.get_running_loop().time()
        is_wanted = "interactive" in lanes or (self._wakes_for_batch and "batch" in lanes)
        if is_wanted and self._is_waiting and now - self._polled_at > _IDLE_SECONDS:
            self._polled_at = now
            self.claim_now()

    def _end_wait(self, wait_number: int | None = None) -> None:
        """Unblock the wait for a wakeup (only wait `wait_number`, if given).

        It is repeated, since Redis may not have received the blocking command yet.
        """
        if self._is_waiting and wait_number in {None, self._wait_number}:
            if self._wakeup.id is not None:
                self._redis.send("CLIENT", "UNBLOCK", self._wakeup.id)
            asyncio.get_running_loop().call_later(_UNBLOCK_SECONDS, self._end_wait, wait_number)

    def note_listener(self, *, is_listener_lost: bool) -> None:
        """Claim nothing while the listener is lost; end a wait that would claim."""
        if is_listener_lost and not self._is_ending:
            self._has_listener.clear()
            self._end_wait(self._wait_number)
        else:
            self._has_listener.set()

    async def take_work(self) -> None:
        """Claim as much as there is room for; with nothing to claim, block for a wakeup."""
        self._may_have_room.clear()
        free = self._slots.free
        if self._is_ending:
            return
        if not self._has_listener.is_set():
            # A cancel of what it claims could not reach it.
            await self._has_listener.wait()
        elif free <= 0 or self._pending_claims:
            # The claims under way may fill the slots.
            await self._may_have_room.wait()
        elif self.is_more or self._must_claim_now:
            self._must_claim_now, began = False, asyncio.get_running_loop().time()
            self.is_more = await self._claim_from_all(
                free, self._wakeup.trusted_connection(self._redis)
            )
            if self._backlog is not None:
                self._backlog.return_unused_room(began)
        else:
            self._is_waiting, self._wakes_for_batch = True, self._slots.free_for_batch > 0
            self._wait_number += 1
            try:
                self.is_more = await self._wait_for_wakeup()
            except WrongTypeError as error:
                self.partition_guard.log_wrong_type(error, work="claim")
                # The wait failed at once. A claim deletes a wakeup key of any type.
                await self._wait_for_room()
                self.is_more = True
            finally:
                self._is_waiting = False

    async def use_free_slot(self, freed_by: Claimed | None = None) -> None:
        """Claim for the slot that `freed_by` has freed, if no wakeup would bring work for it.

        That is the case for a batch, if the worker blocks without batch wakeups, and for another
        suspect. The last free slot is left for what the wakeup brings.
        """
        self._may_have_room.set()
        was_suspect = freed_by is not None and freed_by.suspects_max > 0
        is_woken = self._wakes_for_batch and not was_suspect
        free = self._slots.free - self._pending_claims - 1
        may_claim = self._has_listener.is_set() and not self._is_ending
        if not was_suspect and not self._slots.free_for_batch:
            return
        if self._is_waiting and not is_woken and free > 0 and may_claim:
            before, count = self._pending_claims, free if was_suspect else 1
            self._pending_claims += count
            try:
                await self._claim_from_all(count, self._redis, pending_before=before)
            finally:
                self._pending_claims -= count
                self._may_have_room.set()

    async def _claim_from_all(
        self, free: int, redis: Connection, *, pending_before: int = 0
    ) -> bool:
        """Claim from every partition while there is room; return whether more may be ready.

        Each of the `pending_before` turns that other claims asked for may turn out to be a batch.
        """
        is_more = False
        for _ in range(self._settings.redis.partitions):
            # The next claim starts with the next partition, so that a busy one starves no other.
            partition = self._next_partition
            self._next_partition = (partition + 1) % self._settings.redis.partitions
            if self._is_damaged(partition):
                continue
            root = keys.partition_root(self._settings.redis, partition)
            ask = self._claim_ask(root, min(free, _CLAIM_MAX), pending_before)
            with self.partition_guard("claim", partition):
                batch = await self._start_claimed(root, ask, functions.claim(redis, root, ask))
                is_more = is_more or batch.is_more
                free -= len(batch.claimed)
            if free <= 0:
                return True
        return is_more

    def _is_damaged(self, partition: int) -> bool:
        """Tell whether a turn claimed from a partition would be answered but not settled."""
        return self.partition_guard.is_stopped("reap", partition)

    async def _wait_for_room(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._may_have_room.wait()

    async def _wait_for_wakeup(self) -> bool:
        """Block until a wakeup or for a second; return whether more may be ready.

        A wakeup wakes one worker for one generation. With one partition the same round trip claims
        it. A process that is suspended meanwhile is handed one generation at most, which another
        worker takes over once its lease lapses.
        """
        settings = self._settings.redis
        if settings.partitions == 1 and self._is_damaged(0):
            await self._wait_for_room()
            return True
        wait_seconds = min(_IDLE_SECONDS, self._settings.worker.lease_seconds / 2)
        root = keys.partition_root(settings, 0)
        ask = self._claim_ask(root, 1)
        if settings.partitions > 1:
            # A wakeup that was lost with its connection is not repeated, so claim in any case.
            self.is_more = True
            await self._wakeup.wait(
                lambda redis: functions.wait_for_wakeups(redis, settings, wait_seconds, ask),
                wait_seconds,
            )
            return True
        if ask.suspects:
            # By the time it wakes, other suspects may run: only the next claim asks for suspects.
            ask = msgspec.structs.replace(ask, suspects_max=0)
        claiming = self._wakeup.wait(
            lambda redis: functions.claim_at_wakeup(redis, root, ask, wait_seconds),
            wait_seconds,
        )
        return (await self._start_claimed(root, ask, claiming)).is_more

    async def _start_claimed(
        self, root: str, ask: ClaimAsk, claiming: Awaitable[ClaimReply]
    ) -> ClaimReply:
        """Start what a claim returns; remember a claim whose reply was lost."""
        unacknowledged = self._unacknowledged[root]
        self._suspect_claims += ask.suspects_max != 0
        try:
            batch = await claiming
        except (UnavailableError, WrongTypeError):
            # While Redis is away, at most the first of these claims was carried out.
            if len(unacknowledged) < _UNACKNOWLEDGED_MAX:
                unacknowledged.add(ask.claim)
            # What it took is requeued by the next claim; no wakeup is sent for it.
            self.is_more = True
            raise
        finally:
            self._suspect_claims -= ask.suspects_max != 0
        unacknowledged.difference_update(ask.unacknowledged)
        for claimed in batch.claimed:
            if self._backlog is not None:
                self._backlog.note_claimed(claimed)
            self._start(claimed)
        return batch

    def _claim_ask(self, root: str, count: int, pending_before: int = 0) -> ClaimAsk:
        self._claim_number += 1
        terms = self._backlog.claim_terms() if self._backlog is not None else None
        return ClaimAsk(
            claim=self._claim_number,
            unacknowledged=tuple(sorted(self._unacknowledged[root])),
            worker=self._worker,
            wire=WIRE,
            count=count,
            batch=max(0, self._slots.free_for_batch - pending_before),
            suspects=self._slots.suspects,
            # Two claims at the same time could return more suspects than may run together.
            suspects_max=0 if self._suspect_claims else self._slots.suspects_max,
            lease_ms=int(self._settings.worker.lease_seconds * 1000),
            keep=functions.KeepTimes.of(self._settings.retention),
            room=terms.room if terms is not None else None,
            batch_room=(terms.batch_room or None) if terms is not None else None,
            needs=(terms.needs or None) if terms is not None else None,
            recheck_ms=functions.RECHECK_MS if terms is not None else 0,
        )
