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
from collections.abc import Callable, Iterable, Set as AbstractSet
from contextlib import suppress
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.redis.functions import LANES, Claimed
from shared.settings import ModelSettings
from shared.wire.submission import AUTO, Lane
from worker.permits import UNUSED_SECONDS
from worker.run import Tools

# More than anybody claims: a resource without limits.
PLENTY: Final = 1_000_000
# Between two looks for room of which nobody knows when it comes, and between two looks at all.
_UNKNOWN_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = (0.01, 1.0)
# One probe of a circuit that is due is claimed in so long.
_PROBE_SECONDS: Final = 1.0
# Of so many permits one is a batch's while persons wait.
_TRICKLE: Final = 20
_PERMITS_MAX: Final = 16

Line = tuple[Lane, str]


class Terms(NamedTuple):
    """What goes with a claim: room by resource, a batch's own, and what models' turns need."""

    room: dict[str, int]
    needs: dict[str, str]
    batch_room: dict[str, int]


def resource_of(model: ModelSettings, *, is_circuit: bool = False) -> str:
    """Return what a turn for a model waits for: its provider, or the model there."""
    return f"{model.provider}|{model.identifier}" if is_circuit else model.provider


def may_park(tools: Tools, model: ModelSettings) -> bool:
    """Tell whether a turn for a model whose key this worker lacks may wait in a line.

    Not where only workers that know no lines serve it: they would never find it there.
    """
    if model.identifier not in tools.configured:
        return True
    return tools.unlined is not None and model.identifier not in tools.unlined


class Backlog:
    """What one worker knows of parked turns; `prompt` is set to what has it claim again."""

    def __init__(
        self,
        tools: Callable[[], Tools],
        clock: Clock,
        free: Callable[[], int],
    ) -> None:
        self._tools = tools
        self._clock = clock
        self._free = free
        self.prompt: Callable[[], None] = lambda: None
        self._lines: dict[int, frozenset[Line]] = {}
        self._open: frozenset[Line] = frozenset()
        self._look_at: dict[str, float] = {}
        self._probed_at: dict[str, float] = {}
        self._permits = 0
        self._freed = asyncio.Event()
        self._known: tuple[Tools, Terms] | None = None

    # -- what goes with a claim --------------------------------------------------------------------

    def claim_terms(self) -> Terms | None:
        """Return what a claim is to take and to leave; None where it takes whatever is ready.

        That is while nothing is limited or cools, and no parked turn is known of.
        """
        terms = self.terms()
        return terms if terms.needs or any(self._lines.values()) else None

    def terms(self) -> Terms:
        """Return the room that there is, and what it is needed for."""
        tools = self._tools()
        if self._known is None or self._known[0] is not tools:
            self._known = (tools, _terms(tools))
        terms, unwell = self._known[1], tools.gate.unwell()
        full = [
            provider.name
            for provider in tools.catalogue.providers
            if provider.is_limited and provider.name in terms.room and self._is_full(provider.name)
        ]
        if not full and not unwell:
            return terms
        room, needs, batch_room = dict(terms.room), dict(terms.needs), dict[str, int]()
        for name in full:
            room[name] = tools.gate.permits.free(name, "interactive")
            batch_room[name] = tools.gate.permits.free(name, "batch")
            for model in tools.registry.models:
                if model.provider == name:
                    needs[model.identifier] = name
        for model, is_due in unwell:
            circuit = resource_of(model, is_circuit=True)
            room[circuit] = min(self._probes(circuit), room[model.provider]) if is_due else 0
            needs[model.identifier] = circuit
        served = [model.identifier for model in tools.registry.models]
        if served and all(model in needs for model in served):
            # Whichever comes first; then it is decided anew.
            needs[AUTO] = " ".join(dict.fromkeys(needs[model] for model in served))
        return Terms(room, needs, batch_room)

    def _is_full(self, provider: str) -> bool:
        return self._has_line(provider) or self._tools().gate.permits.is_full(provider)

    def _has_line(self, resource: str) -> bool:
        return any((lane, resource) in lines for lines in self._lines.values() for lane in LANES)

    def _probes(self, circuit: str) -> int:
        since = self._clock.monotonic() - self._probed_at.get(circuit, -_PROBE_SECONDS)
        return int(since >= _PROBE_SECONDS)

    def began(self, claimed: Claimed) -> None:
        """Note with which room a turn was claimed: its permit is kept for it."""
        if claimed.resource:
            permits = self._tools().gate.permits
            permits.promise(_provider(claimed.resource), claimed.lane, claimed.id)
            if "|" in claimed.resource:
                self._probed_at[claimed.resource] = self._clock.monotonic()

    def ended(self, claimed: Claimed) -> None:
        """Give back a permit that an attempt has not used, and have it used by another turn."""
        gate = self._tools().gate
        for provider in gate.give_back(gate.permits.drop(claimed.id)):
            gate.permits.note_freed(provider)

    def claimed(self, since: float) -> None:
        """Give back the room that was there before a claim and was not used by it."""
        gate = self._tools().gate
        for provider in gate.give_back(gate.permits.unused(since)):
            # What was known of its lines was old.
            self._look_at[provider] = self._clock.monotonic() + _UNKNOWN_SECONDS

    # -- what reaping tells ------------------------------------------------------------------------

    def closed(self) -> tuple[str, ...]:
        """Return the resources that turns are parked for and that are not to be had here."""
        if not any(self._lines.values()):
            return ()
        tools, terms = self._tools(), self.terms()
        lacking = {
            model.provider
            for model in tools.catalogue.models
            if model.provider not in terms.room and may_park(tools, model)
        }
        resources = {resource for lines in self._lines.values() for _, resource in lines}
        return tuple(sorted(each for each in resources if _is_closed(terms, lacking, each)))

    def hear(self, partition: int, lines: frozenset[Line]) -> None:
        """Take in what is parked in a partition; claim what has become open."""
        self._lines[partition] = lines
        known = frozenset(line for each in self._lines.values() for line in each)
        if not known and not self._open:
            return
        terms = self.terms()
        before = self._open
        self._open = frozenset(line for line in known if _room(terms, *line) > 0)
        if self._open - before:
            self.prompt()

    # -- room for what is parked -------------------------------------------------------------------

    async def look_for_room(self) -> None:
        """Take room of providers for which turns are parked, and have as many claimed."""
        tools, now = self._tools(), self._clock.monotonic()
        tools.gate.permits.on_freed = self._freed.set
        self._freed.clear()
        # No claim does it while this worker waits at the bell, or may not claim at all.
        since = now - UNUSED_SECONDS if self._free() > 0 else now
        tools.gate.give_back(tools.gate.permits.unused(since))
        for provider in tools.catalogue.providers:
            is_wanted = provider.is_limited and self._has_line(provider.name)
            if not is_wanted:
                self._look_at.pop(provider.name, None)
            elif tools.gate.permits.was_freed(provider.name) or now >= self._look_at.get(
                provider.name, 0.0
            ):
                wait = await self._take_room(tools, provider.name)
                self._look_at[provider.name] = self._clock.monotonic() + wait

    async def _take_room(self, tools: Tools, provider: str) -> float:
        """Take as many permits as there are and slots are free; return when to look again."""
        permits, (low, high) = tools.gate.permits, _LOOK_SECONDS
        wait: float | None = None
        count = min(self._free(), _PERMITS_MAX)
        while wait is None and permits.held(provider) < count:
            wait = await tools.gate.permit(provider, self._next_lane(provider))
            self._permits += wait is None
        if permits.held(provider):
            self.prompt()
        return min(high, max(low, _UNKNOWN_SECONDS if wait == 0 else wait or 0.0))

    def _next_lane(self, provider: str) -> Lane:
        """Persons first, but for one in so many."""
        waiting = {
            lane for lines in self._lines.values() for lane, each in lines if each == provider
        }
        is_batch_due = self._permits % _TRICKLE == _TRICKLE - 1
        if "batch" in waiting and (is_batch_due or "interactive" not in waiting):
            return "batch"
        return "interactive"

    async def until_look(self) -> None:
        """Wait until room is to be looked for again: a call has ended, or it is time."""
        low, high = _LOOK_SECONDS
        left = min(self._look_at.values(), default=math.inf) - self._clock.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(high, max(low, left))):
                await self._freed.wait()


def _terms(tools: Tools) -> Terms:
    """Return what holds while nothing is full and nothing cools."""
    room = {model.provider: PLENTY for model in tools.registry.models}
    lacking = (
        model
        for model in tools.catalogue.models
        if model.provider not in room
        and model.identifier in tools.configured
        and may_park(tools, model)
    )
    return Terms(room, {model.identifier: resource_of(model) for model in lacking}, {})


def _provider(resource: str) -> str:
    return resource.partition("|")[0]


def _room(terms: Terms, lane: Lane, resource: str) -> int:
    room = terms.room | terms.batch_room if lane == "batch" else terms.room
    return room.get(resource, room.get(_provider(resource), 0))


def _is_closed(terms: Terms, lacking: AbstractSet[str], resource: str) -> bool:
    if _provider(resource) in terms.room:
        return not any(_room(terms, lane, resource) for lane in LANES)
    return _provider(resource) in lacking


def joined(resources: Iterable[str]) -> str | None:
    """Return resources as they are told to Redis, each once, or None for none."""
    return " ".join(dict.fromkeys(resources)) or None
