"""Taking work: claims from every partition, and the wait at the bell when there is none.

Owns whom to ask next, how many to ask for, on which connection, and which claims were never
answered: the next one gives back what they took. What is claimed has a slot before anything else
happens. Refuses to run it: `start` does.
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
from shared.redis.functions import Batch, ClaimAsk, Claimed
from shared.settings import Settings
from shared.wire.submission import WIRE, Lane
from worker.apart import Apart
from worker.backlog import Backlog
from worker.bell import Bell
from worker.slots import Slots

_IDLE_SECONDS: Final = 1.0
_UNBLOCK_SECONDS: Final = 0.05
# More at once would make every other caller of Redis wait for milliseconds.
_CLAIM_MAX: Final = 32
_UNHEARD_MAX: Final = 1_000


class Claims:
    """The claims of one worker; `take_work` is to be called again and again."""

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
        self._apart = Apart()
        # What is claimed where lines cannot be kept would be answered and not settled.
        self.is_damaged: Callable[[int], bool] = lambda _: False
        self._bell = Bell(settings.redis, _IDLE_SECONDS)
        self._room = asyncio.Event()
        # Claims for slots that became free, under way.
        self._asked = 0
        self._is_ending = False
        self._hears = asyncio.Event()
        self._hears.set()
        self._number = 0
        self._unheard: defaultdict[str, set[int]] = defaultdict(set)
        # Nobody has looked yet.
        self.is_more = True
        self._is_at_bell = False
        self._bell_turn = 0
        self._is_prompted = False
        self._looked_at = 0.0
        self._hears_batch = True
        # How many claims are under way that may bring suspects.
        self._seeking = 0
        self._partition = random.randrange(settings.redis.partitions)  # noqa: S311  only where to look first

    async def close(self) -> None:
        """Let the bell go."""
        await self._bell.close()

    def end(self) -> None:
        """Claim no more. A claim under way is waited for: it may bring work."""
        self._is_ending = True
        self._hears.set()
        self._room.set()
        self._leave_bell()

    def prompt(self) -> None:
        """Claim now: there is something for this worker of which no bell tells."""
        self._is_prompted = True
        self._room.set()
        self._leave_bell(self._bell_turn)

    def note_ready(self, lanes: AbstractSet[Lane]) -> None:
        """Claim what has been ready since a worker took its ring that could not take it.

        Once a second: it may be for nobody here.
        """
        now = asyncio.get_running_loop().time()
        is_heard = "interactive" in lanes or (self._hears_batch and "batch" in lanes)
        if is_heard and self._is_at_bell and now - self._looked_at > _IDLE_SECONDS:
            self._looked_at = now
            self.prompt()

    def _leave_bell(self, turn: int | None = None) -> None:
        """End the wait for a bell, or this one; again, since Redis may not have heard of it yet."""
        if self._is_at_bell and turn in {None, self._bell_turn}:
            if self._bell.id is not None:
                self._redis.send("CLIENT", "UNBLOCK", self._bell.id)
            asyncio.get_running_loop().call_later(_UNBLOCK_SECONDS, self._leave_bell, turn)

    def hear(self, *, is_deaf: bool) -> None:
        """Claim nothing while the worker's listener is away, nor wait at a bell that would."""
        if is_deaf and not self._is_ending:
            self._hears.clear()
            self._leave_bell(self._bell_turn)
        else:
            self._hears.set()

    async def take_work(self) -> None:
        """Claim as much as there is room for; with nothing to claim, wait for a bell."""
        self._room.clear()
        free = self._slots.free
        if self._is_ending:
            return
        if not self._hears.is_set():
            # Nobody could tell it to stop what it takes.
            await self._hears.wait()
        elif free <= 0 or self._asked:
            # What is under way may fill it.
            await self._room.wait()
        elif self.is_more or self._is_prompted:
            self._is_prompted, began = False, asyncio.get_running_loop().time()
            self.is_more = await self._claim_from_all(free, self._bell.trusted(self._redis))
            if self._backlog is not None:
                self._backlog.claimed(began)
        else:
            self._is_at_bell, self._hears_batch = True, self._slots.free_for_batch > 0
            self._bell_turn += 1
            try:
                self.is_more = await self._wait_for_bell()
            except WrongTypeError as error:
                self._apart.note(error, work="claim")
                # It waited for nothing. A claim empties a bell, of whatever type.
                await self._wait_for_room()
                self.is_more = True
            finally:
                self._is_at_bell = False

    async def slot_is_free(self, left: Claimed | None = None) -> None:
        """Use the slot that `left` has left: no bell may tell of what can have it now.

        That is a batch, where the worker waits at a bell that tells of none, or another suspect.
        The last slot is left for what the bell brings.
        """
        self._room.set()
        was_suspect = left is not None and left.company > 0
        is_told = self._hears_batch and not was_suspect
        free = self._slots.free - self._asked - 1
        may_claim = self._hears.is_set() and not self._is_ending
        if self._is_at_bell and not is_told and free > 0 and may_claim:
            before, count = self._asked, free if was_suspect else 1
            self._asked += count
            try:
                await self._claim_from_all(count, self._redis, asked_before=before)
            finally:
                self._asked -= count
                self._room.set()

    async def _claim_from_all(self, free: int, redis: Connection, *, asked_before: int = 0) -> bool:
        """Claim from every partition while there is room; return whether more may be ready.

        Each of those asked for before, and still under way, may be of a batch.
        """
        is_more = False
        for _ in range(self._settings.redis.partitions):
            # The next look begins with the next: a busy partition must not hide the others.
            partition = self._partition
            self._partition = (partition + 1) % self._settings.redis.partitions
            if self.is_damaged(partition):
                continue
            root = keys.partition_root(self._settings.redis, partition)
            ask = self._ask(root, min(free, _CLAIM_MAX), asked_before)
            with self._apart("claim", partition):
                batch = await self._begin(root, ask, functions.claim(redis, root, ask))
                is_more = is_more or batch.is_more
                free -= len(batch.claimed)
            if free <= 0:
                return True
        return is_more

    async def _wait_for_room(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_SECONDS):
                await self._room.wait()

    async def _wait_for_bell(self) -> bool:
        """Sleep until a bell rings or a second passes; return whether to look for more.

        A ring wakes one worker for one generation. With one partition it is claimed on the spot, in
        the round trip that was waited for. A worker that is stopped while it sleeps is handed one
        at most, and before its leases lapse: none of what they then set free.
        """
        settings = self._settings.redis
        if settings.partitions == 1 and self.is_damaged(0):
            await self._wait_for_room()
            return True
        patience_seconds = min(_IDLE_SECONDS, self._settings.worker.lease_seconds / 2)
        root = keys.partition_root(settings, 0)
        ask = self._ask(root, 1)
        if settings.partitions > 1:
            # A ring that was lost with its connection does not come again: look even so.
            self.is_more = True
            await self._bell.wait(
                lambda redis: functions.wait_for_bells(redis, settings, patience_seconds, ask),
                patience_seconds,
            )
            return True
        if ask.suspects:
            # By the time a bell rings, others may run: the claim after it looks for them.
            ask = msgspec.structs.replace(ask, company=0)
        claiming = self._bell.wait(
            lambda redis: functions.claim_at_bell(redis, root, ask, patience_seconds),
            patience_seconds,
        )
        return (await self._begin(root, ask, claiming)).is_more

    async def _begin(self, root: str, ask: ClaimAsk, claiming: Awaitable[Batch]) -> Batch:
        """Start what a claim brings; one that is not answered may have taken something."""
        unheard = self._unheard[root]
        self._seeking += ask.company != 0
        try:
            batch = await claiming
        except (UnavailableError, WrongTypeError):
            # While Redis is away none is carried out but the first.
            if len(unheard) < _UNHEARD_MAX:
                unheard.add(ask.claim)
            # What it took waits for the next claim, no bell rings for it.
            self.is_more = True
            raise
        finally:
            self._seeking -= ask.company != 0
        unheard.difference_update(ask.unheard)
        for claimed in batch.claimed:
            if self._backlog is not None:
                self._backlog.began(claimed)
            self._start(claimed)
        return batch

    def _ask(self, root: str, count: int, asked_before: int = 0) -> ClaimAsk:
        self._number += 1
        terms = self._backlog.claim_terms() if self._backlog is not None else None
        return ClaimAsk(
            claim=self._number,
            unheard=tuple(sorted(self._unheard[root])),
            worker=self._worker,
            wire=WIRE,
            count=count,
            batch=max(0, self._slots.free_for_batch - asked_before),
            suspects=self._slots.suspects,
            # Two claims at once could bring more suspects than may run together.
            company=0 if self._seeking else self._slots.company,
            lease_ms=int(self._settings.worker.lease_seconds * 1000),
            keep=functions.Keep.of(self._settings.retention),
            room=terms.room if terms is not None else None,
            batch_room=(terms.batch_room or None) if terms is not None else None,
            needs=(terms.needs or None) if terms is not None else None,
            look_again_ms=functions.LOOK_AGAIN_MS if terms is not None else 0,
        )
