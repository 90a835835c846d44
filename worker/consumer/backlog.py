"""What this worker may claim now: the resources that it has, and how much room each has.

Owns the answers to three questions: which turns a claim would take in vain (they are parked), how
many parked ones may begin, and which resources are closed as far as is known here. A resource is
named by a provider, or for a model that cools by `provider|model`. Refuses to claim.

DESIGN. The fleet's limits are in Redis, in one place; turns are in partitions. Where turns are
parked for a provider with limits, room is taken first (a `Permit`, see `permits`) and then a turn
is claimed with it, so none is claimed in vain. Example: 2,000 turns wait for a provider that takes
one call in two seconds; every two seconds one worker gets a permit and claims one turn.
"""

import asyncio
import math
from collections.abc import Callable, Set as AbstractSet
from contextlib import suppress
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.redis.functions import Claimed
from shared.wire.submission import AUTO, LANES, Lane
from worker.parking import may_park, resource_of
from worker.resilience.permits import UNUSED_SECONDS
from worker.run import Dependencies

# More than anybody claims: a resource without limits.
UNLIMITED_ROOM: Final = 1_000_000
# Between two looks for room of which nobody knows when it comes, and between two looks at all.
_UNKNOWN_ROOM_SECONDS: Final = 0.5
_POLL_SECONDS: Final = (0.01, 1.0)
# One probe of a circuit that is due is claimed in so long.
_PROBE_SECONDS: Final = 1.0
# Of so many permits one is a batch's while persons wait.
_TRICKLE: Final = 20
_PERMITS_MAX: Final = 16

ParkedList = tuple[Lane, str]


class ClaimTerms(NamedTuple):
    """What goes with a claim: room by resource, a batch's own, and what models' turns need."""

    room: dict[str, int]
    needs: dict[str, str]
    batch_room: dict[str, int]


class Backlog:
    """What one worker knows of parked turns; `prompt` is set to what has it claim again."""

    def __init__(
        self,
        dependencies: Callable[[], Dependencies],
        clock: Clock,
        free: Callable[[], int],
    ) -> None:
        self._dependencies = dependencies
        self._clock = clock
        self._free_slots = free
        self.claim_now: Callable[[], None] = lambda: None
        self._parked_lists: dict[int, frozenset[ParkedList]] = {}
        self._open_lists: frozenset[ParkedList] = frozenset()
        self._poll_at: dict[str, float] = {}
        self._probed_at: dict[str, float] = {}
        self._permits_taken = 0
        self._room_freed = asyncio.Event()
        self._cached_terms: tuple[Dependencies, ClaimTerms] | None = None

    # -- what goes with a claim --------------------------------------------------------------------

    def claim_terms(self) -> ClaimTerms | None:
        """Return what a claim is to take and to leave; None where it takes whatever is ready.

        That is while nothing is limited or cools, and no parked turn is known of.
        """
        terms = self.terms()
        return terms if terms.needs or any(self._parked_lists.values()) else None

    def terms(self) -> ClaimTerms:
        """Return the room that there is, and what it is needed for."""
        dependencies = self._dependencies()
        if self._cached_terms is None or self._cached_terms[0] is not dependencies:
            self._cached_terms = (dependencies, _terms(dependencies))
        terms, open_circuit_models = (
            self._cached_terms[1],
            dependencies.circuit_breaker.open_circuit_models(),
        )
        full = [
            provider.name
            for provider in dependencies.catalogue.providers
            if provider.is_limited and provider.name in terms.room and self._is_full(provider.name)
        ]
        if not full and not open_circuit_models:
            return terms
        room, needs, batch_room = dict(terms.room), dict(terms.needs), dict[str, int]()
        for name in full:
            room[name] = dependencies.circuit_breaker.permits.free(name, "interactive")
            batch_room[name] = dependencies.circuit_breaker.permits.free(name, "batch")
            for model in dependencies.registry.models:
                if model.provider == name:
                    needs[model.identifier] = name
        for model, is_due in open_circuit_models:
            circuit = resource_of(model, is_circuit=True)
            room[circuit] = min(self._probe_room(circuit), room[model.provider]) if is_due else 0
            needs[model.identifier] = circuit
        served = [model.identifier for model in dependencies.registry.models]
        if served and all(model in needs for model in served):
            # Whichever comes first; then it is decided anew.
            needs[AUTO] = " ".join(dict.fromkeys(needs[model] for model in served))
        return ClaimTerms(room, needs, batch_room)

    def _is_full(self, provider: str) -> bool:
        return self._has_parked(provider) or self._dependencies().circuit_breaker.permits.is_full(
            provider
        )

    def _has_parked(self, resource: str) -> bool:
        return any(
            (lane, resource) in parked_lists
            for parked_lists in self._parked_lists.values()
            for lane in LANES
        )

    def _probe_room(self, circuit: str) -> int:
        since = self._clock.monotonic() - self._probed_at.get(circuit, -_PROBE_SECONDS)
        return int(since >= _PROBE_SECONDS)

    def note_claimed(self, claimed: Claimed) -> None:
        """Note with which room a turn was claimed: its permit is kept for it."""
        if claimed.resource:
            permits = self._dependencies().circuit_breaker.permits
            permits.assign(_provider(claimed.resource), claimed.lane, claimed.id)
            if "|" in claimed.resource:
                self._probed_at[claimed.resource] = self._clock.monotonic()

    def note_ended(self, claimed: Claimed) -> None:
        """Give back a permit that an attempt has not used, and have it used by another turn."""
        circuit_breaker = self._dependencies().circuit_breaker
        for provider in circuit_breaker.return_permits(circuit_breaker.permits.drop(claimed.id)):
            circuit_breaker.permits.note_freed(provider)

    def return_unused_room(self, since: float) -> None:
        """Give back the room that was there before a claim and was not used by it."""
        circuit_breaker = self._dependencies().circuit_breaker
        for provider in circuit_breaker.return_permits(circuit_breaker.permits.take_unused(since)):
            # What was known of its lines was old.
            self._poll_at[provider] = self._clock.monotonic() + _UNKNOWN_ROOM_SECONDS

    # -- what reaping tells ------------------------------------------------------------------------

    def closed_resources(self) -> tuple[str, ...]:
        """Return the resources that turns are parked for and that are not to be had here."""
        if not any(self._parked_lists.values()):
            return ()
        dependencies, terms = self._dependencies(), self.terms()
        lacking = {
            model.provider
            for model in dependencies.catalogue.models
            if model.provider not in terms.room and may_park(dependencies, model)
        }
        resources = {
            resource for parked_lists in self._parked_lists.values() for _, resource in parked_lists
        }
        return tuple(sorted(each for each in resources if _is_closed(terms, lacking, each)))

    def note_parked(self, partition: int, parked_lists: frozenset[ParkedList]) -> None:
        """Take in what is parked in a partition; claim what has become open."""
        self._parked_lists[partition] = parked_lists
        known = frozenset(
            parked_list for each in self._parked_lists.values() for parked_list in each
        )
        if not known and not self._open_lists:
            return
        terms = self.terms()
        before = self._open_lists
        self._open_lists = frozenset(
            parked_list for parked_list in known if _room(terms, *parked_list) > 0
        )
        if self._open_lists - before:
            self.claim_now()

    # -- room for what is parked -------------------------------------------------------------------

    async def take_permits(self) -> None:
        """Take room of providers for which turns are parked, and have as many claimed."""
        dependencies, now = self._dependencies(), self._clock.monotonic()
        dependencies.circuit_breaker.permits.on_freed = self._room_freed.set
        self._room_freed.clear()
        # No claim does it while this worker waits at the bell, or may not claim at all.
        since = now - UNUSED_SECONDS if self._free_slots() > 0 else now
        dependencies.circuit_breaker.return_permits(
            dependencies.circuit_breaker.permits.take_unused(since)
        )
        for provider in dependencies.catalogue.providers:
            is_wanted = provider.is_limited and self._has_parked(provider.name)
            if not is_wanted:
                self._poll_at.pop(provider.name, None)
            elif dependencies.circuit_breaker.permits.was_freed(
                provider.name
            ) or now >= self._poll_at.get(provider.name, 0.0):
                wait = await self._take_permits_of(dependencies, provider.name)
                self._poll_at[provider.name] = self._clock.monotonic() + wait

    async def _take_permits_of(self, dependencies: Dependencies, provider: str) -> float:
        """Take as many permits as there are and slots are free; return when to look again."""
        permits, (low, high) = dependencies.circuit_breaker.permits, _POLL_SECONDS
        wait: float | None = None
        count = min(self._free_slots(), _PERMITS_MAX)
        while wait is None and permits.held(provider) < count:
            wait = await dependencies.circuit_breaker.take_permit(
                provider, self._next_lane(provider)
            )
            self._permits_taken += wait is None
        if permits.held(provider):
            self.claim_now()
        return min(high, max(low, _UNKNOWN_ROOM_SECONDS if wait == 0 else wait or 0.0))

    def _next_lane(self, provider: str) -> Lane:
        """Persons first, but for one in so many."""
        waiting = {
            lane
            for parked_lists in self._parked_lists.values()
            for lane, each in parked_lists
            if each == provider
        }
        is_batch_due = self._permits_taken % _TRICKLE == _TRICKLE - 1
        if "batch" in waiting and (is_batch_due or "interactive" not in waiting):
            return "batch"
        return "interactive"

    async def until_next_poll(self) -> None:
        """Wait until room is to be looked for again: a call has ended, or it is time."""
        low, high = _POLL_SECONDS
        left = min(self._poll_at.values(), default=math.inf) - self._clock.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(high, max(low, left))):
                await self._room_freed.wait()


def _terms(dependencies: Dependencies) -> ClaimTerms:
    """Return what holds while nothing is full and nothing cools."""
    room = {model.provider: UNLIMITED_ROOM for model in dependencies.registry.models}
    lacking = (
        model
        for model in dependencies.catalogue.models
        if model.provider not in room
        and model.identifier in dependencies.configured
        and may_park(dependencies, model)
    )
    return ClaimTerms(room, {model.identifier: resource_of(model) for model in lacking}, {})


def _provider(resource: str) -> str:
    return resource.partition("|")[0]


def _room(terms: ClaimTerms, lane: Lane, resource: str) -> int:
    room = terms.room | terms.batch_room if lane == "batch" else terms.room
    return room.get(resource, room.get(_provider(resource), 0))


def _is_closed(terms: ClaimTerms, lacking: AbstractSet[str], resource: str) -> bool:
    if _provider(resource) in terms.room:
        return not any(_room(terms, lane, resource) for lane in LANES)
    return _provider(resource) in lacking
