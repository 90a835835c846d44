"""What this worker may claim now: which resources it has, and how much room each has.

Owns the answers to three questions: which turns a claim must leave in the queue because they could
not run now (Redis parks them), how many parked turns may start, and which resources are closed as
far as this worker knows. A resource is a provider, or `provider|model` while that model's circuit
is open. Refuses to claim: `claims` does.

DESIGN. The fleet's limits are in one place in Redis; turns are in partitions. While turns are
parked for a provider with limits, the worker takes room first (a `Permit`, see
`resilience/permits`) and then claims one turn for it, so no turn is claimed in vain. Example: 2,000
turns wait for a provider that takes one call in two seconds; every two seconds one worker gets a
permit and claims one turn.
"""

import asyncio
import math
from collections.abc import Callable, Set as AbstractSet
from contextlib import suppress
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.redis.functions import Claimed
from shared.settings import ProviderSettings
from shared.wire.submission import AUTO, LANES, Lane
from worker.parking import may_park, resource_of
from worker.resilience.permits import UNUSED_SECONDS
from worker.resilience.rate_limiter import RateLimiter
from worker.run import Dependencies

# The room of a resource without limits: more than any claim takes.
UNLIMITED_ROOM: Final = 1_000_000
# Between two polls for room when Redis cannot say when there will be some.
_UNKNOWN_ROOM_SECONDS: Final = 0.5
# The shortest and the longest time between two polls for room.
_POLL_SECONDS: Final = (0.01, 1.0)
# At most one probe of a circuit is claimed in this time.
_PROBE_SECONDS: Final = 1.0
# While interactive turns wait, every 20th permit is for a batch.
_TRICKLE: Final = 20
_PERMITS_MAX: Final = 16

ParkedList = tuple[Lane, str]


class ClaimTerms(NamedTuple):
    """What a claim may take.

    `room`: how many turns each resource has room for; `batch_room` replaces it for batches.
    `needs`: the resource that turns for a model need, for models whose room is limited.
    """

    room: dict[str, int]
    needs: dict[str, str]
    batch_room: dict[str, int]


class Backlog:
    """What one worker knows of parked turns. `claim_now` is called when it should claim again."""

    def __init__(
        self,
        dependencies: Callable[[], Dependencies],
        clock: Clock,
        free_slots: Callable[[], int],
        claim_now: Callable[[], None],
    ) -> None:
        self._dependencies = dependencies
        self._clock = clock
        self._free_slots = free_slots
        self._claim_now = claim_now
        self._parked_lists: dict[int, frozenset[ParkedList]] = {}
        self._open_lists: frozenset[ParkedList] = frozenset()
        self._poll_at: dict[str, float] = {}
        self._probed_at: dict[str, float] = {}
        self._permits_taken = 0
        self._room_freed = asyncio.Event()
        self._cached_terms: tuple[Dependencies, ClaimTerms] | None = None

    # -- what goes with a claim --------------------------------------------------------------------

    def claim_terms(self) -> ClaimTerms | None:
        """Return what a claim may take, or None if it may take whatever is ready.

        That is while no resource is limited, no circuit is open, and no parked turn is known.
        """
        terms = self.terms()
        return terms if terms.needs or any(self._parked_lists.values()) else None

    def terms(self) -> ClaimTerms:
        """Return the room of each resource, and which models need it."""
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
        permits = dependencies.circuit_breaker.rate_limiter.permits
        for name in full:
            room[name] = permits.free(name, "interactive")
            batch_room[name] = permits.free(name, "batch")
            for model in dependencies.registry.models:
                if model.provider == name:
                    needs[model.identifier] = name
        for model, is_due in open_circuit_models:
            circuit = resource_of(model, is_circuit=True)
            room[circuit] = min(self._probe_room(circuit), room[model.provider]) if is_due else 0
            needs[model.identifier] = circuit
        served = [model.identifier for model in dependencies.registry.models]
        if served and all(model in needs for model in served):
            # The first of them with room; the routing then decides again.
            needs[AUTO] = " ".join(dict.fromkeys(needs[model] for model in served))
        return ClaimTerms(room, needs, batch_room)

    def _is_full(self, provider: str) -> bool:
        permits = self._dependencies().circuit_breaker.rate_limiter.permits
        return self._has_parked(provider) or permits.is_full(provider)

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
        """Note the room with which a turn was claimed: its permit is assigned to it."""
        if claimed.resource:
            permits = self._dependencies().circuit_breaker.rate_limiter.permits
            permits.assign(_provider(claimed.resource), claimed.lane, claimed.id)
            if "|" in claimed.resource:
                self._probed_at[claimed.resource] = self._clock.monotonic()

    def note_ended(self, claimed: Claimed) -> None:
        """Return a permit that an attempt did not use, so that another turn can use it."""
        limiter = self._dependencies().circuit_breaker.rate_limiter
        for provider in limiter.return_permits(limiter.permits.drop(claimed.id)):
            limiter.permits.note_freed(provider)

    def return_unused_room(self, since: float) -> None:
        """Return the permits held since before `since`: the claim found no turn for them."""
        limiter = self._dependencies().circuit_breaker.rate_limiter
        for provider in limiter.return_permits(limiter.permits.take_unused(since)):
            # What this worker knew of the provider's parked turns was out of date.
            self._poll_at[provider] = self._clock.monotonic() + _UNKNOWN_ROOM_SECONDS

    # -- what reaping reports ----------------------------------------------------------------------

    def closed_resources(self) -> tuple[str, ...]:
        """Return the resources for which turns are parked and which are closed to this worker."""
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
        """Store which lists of a partition have parked turns; claim if one has become open."""
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
            self._claim_now()

    # -- room for what is parked -------------------------------------------------------------------

    async def take_permits(self) -> None:
        """Take permits of providers for which turns are parked, and have as many turns claimed."""
        dependencies, now = self._dependencies(), self._clock.monotonic()
        limiter = dependencies.circuit_breaker.rate_limiter
        limiter.permits.on_freed = self._room_freed.set
        self._room_freed.clear()
        # No claim returns unused permits while this worker blocks for a wakeup or may not claim.
        since = now - UNUSED_SECONDS if self._free_slots() > 0 else now
        limiter.return_permits(limiter.permits.take_unused(since))
        for provider in dependencies.catalogue.providers:
            is_wanted = provider.is_limited and self._has_parked(provider.name)
            if not is_wanted:
                self._poll_at.pop(provider.name, None)
            elif limiter.permits.was_freed(provider.name) or now >= self._poll_at.get(
                provider.name, 0.0
            ):
                wait = await self._take_permits_of(provider, limiter)
                self._poll_at[provider.name] = self._clock.monotonic() + wait

    async def _take_permits_of(self, provider: ProviderSettings, limiter: RateLimiter) -> float:
        """Take as many permits as are available and slots are free; return seconds to wait."""
        name, (low, high) = provider.name, _POLL_SECONDS
        wait: float | None = None
        count = min(self._free_slots(), _PERMITS_MAX)
        while wait is None and limiter.permits.held(name) < count:
            wait = await limiter.take_permit(provider, self._next_lane(name))
            self._permits_taken += wait is None
        if limiter.permits.held(name):
            self._claim_now()
        return min(high, max(low, _UNKNOWN_ROOM_SECONDS if wait == 0 else wait or 0.0))

    def _next_lane(self, provider: str) -> Lane:
        """Interactive turns first, except for every 20th permit."""
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
        """Wait until the next poll for room: a call has ended, or the time has come."""
        low, high = _POLL_SECONDS
        left = min(self._poll_at.values(), default=math.inf) - self._clock.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(high, max(low, left))):
                await self._room_freed.wait()


def _terms(dependencies: Dependencies) -> ClaimTerms:
    """Return the terms that hold while no provider is full and no circuit is open."""
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
