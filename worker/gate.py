"""The gate to the upstreams: whoever calls one goes through here, in these words.

    async with tools.gate.call(model, run.caller, lane="interactive", tokens=1_200) as call:
        async for part in tools.registry.provider_of(model).stream(request):
            call.heard()
        call.used_tokens = 900

Owns which calls are made at all: the breaker of each circuit (a provider's model under one
credential, for all or for one account) and its throttle, the limits of each provider, and the
budget of second tries. What a failure closes stands in `causes`. A call that may
not be made is a BarredError, raised before anything was sent; it says why and for how long. Refuses
to wait, to try again and to choose another model: that is the step's.

DESIGN. Breakers, throttles and limits are the whole fleet's, in Redis. A worker is told with each
report which breakers are not closed and which providers are throttled, and keeps that in memory;
answered calls are counted here and told with the report. So a call through a closed breaker to a
provider without limits, which never refused one, asks Redis nothing. A failure is told at once.
Leases of what is under way are kept by the report: those of a worker that died lapse. Rooms are
given back without waiting for an answer.
"""

import copy
from collections.abc import Mapping, Sequence, Set as AbstractSet
from functools import cached_property
from typing import Final, Self

from shared import ids
from shared.clock import Clock
from shared.errors import BarredError, PolluxError, ProviderError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import Breaker, EndProbeAsk, FailAsk, ProbeAsk
from shared.settings import ModelSettings, Settings
from shared.stores.fleet import Calls
from shared.telemetry import logs
from shared.wire.submission import Lane
from worker import causes
from worker.budget import Budget
from worker.circuits import Answered, Caller, Seen, barred, bounded, failing, own_circuit
from worker.limits import Limits
from worker.permits import Permit, Permits
from worker.providers.rate_limit_headers import RateLimits
from worker.providers.registry import Registry
from worker.throttles import Throttles

_LEASE_MS: Final = 5_000  # a few reports


class Call:
    """One call: entering raises BarredError if it may not be made, leaving tells what came of it.

    Tell it when an answer has `begun`, be it without a word, when the model is `heard()`, and the
    `used_tokens` where they are known.
    """

    def __init__(
        self,
        gate: "Gate",
        model: ModelSettings,
        caller: Caller,
        lane: Lane,
        tokens: int,
        *,
        is_retry: bool,
    ) -> None:
        self.model = model
        self.caller = caller
        self.circuit = gate.circuit_of(model)
        self.own_circuit = own_circuit(self.circuit, caller.account)
        self.lane = lane
        self.tokens = tokens
        self.used_tokens: int | None = None
        self.is_retry = is_retry
        self.is_sent = self.is_heard = self.is_taken_on = False
        self.number = 0
        self._gate = gate

    @property
    def circuits(self) -> tuple[str, str]:
        """The circuit of all, and that of the caller's account."""
        return self.circuit, self.own_circuit

    @cached_property
    def id(self) -> str:
        """What the call is told from others by, made for the first who asks."""
        return ids.new_id()

    async def __aenter__(self) -> Self:
        await self._gate.begin(self)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._gate.end(self, error)

    def begun(self, limits: RateLimits | None) -> None:
        """Tell that an answer has begun, and what its head says of the provider's limits."""
        self.is_taken_on = True
        if limits is not None and limits.requests is not None:
            self._gate.throttles.told(self.circuit, self.number, limits.requests)

    def heard(self) -> None:
        """Tell that the model has begun to answer: a probe has learnt what it was to learn."""
        if not self.is_heard:
            self.is_heard = self.is_taken_on = True
            self._gate.took_on(self)

    def spent_tokens(self) -> int:
        """Return what to reckon with: nothing of a call that was refused."""
        if self.used_tokens is not None:
            return self.used_tokens
        return self.tokens if self.is_heard else 0


class Gate:
    """What a worker knows of upstreams' health, and its own part in the fleet's calls."""

    def __init__(
        self, settings: Settings, redis: Connection, clock: Clock, registry: Registry
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._clock = clock
        self._registry = registry
        self._root = keys.system_root(settings.redis)
        self._seen: dict[str, Seen] = {}
        self._slots: dict[str, tuple[str, Lane, str]] = {}
        self._probes: dict[str, list[str]] = {}
        self._answered = Answered(settings.breaker, clock)
        self.throttles = Throttles(redis, self._root, clock)
        self._budgets: dict[str, Budget] = {}
        self.permits = Permits(clock)

    def over(self, registry: Registry) -> Self:
        """Return a gate over another catalogue that knows and counts with this one."""
        gate = copy.copy(self)
        gate._registry = registry  # noqa: SLF001  of the same class
        return gate

    def circuit_of(self, model: ModelSettings) -> str:
        """Return what fails together with a model."""
        return self._registry.circuit_of(model)

    # -- what is known without asking --------------------------------------------------------------

    def bar(self, model: ModelSettings, account: str) -> BarredError | None:
        """Return why an account's call of a model would not be made now, as far as is known."""
        circuit = self.circuit_of(model)
        bars = (self._bar(model, each) for each in (circuit, own_circuit(circuit, account)))
        return next((bar for bar in bars if bar is not None), None)

    def _bar(self, model: ModelSettings, circuit: str) -> BarredError | None:
        seen = self._seen.get(circuit)
        left = seen.due - self._clock.monotonic() if seen is not None else 0.0
        if seen is None or left <= 0:
            return None
        if "@" in circuit:
            return barred(model, "slowed", left)
        return barred(model, "probing" if seen.is_probing else "cooling", left, seen.why)

    def cooling(self, account: str) -> frozenset[str]:
        """Return the models that would not be called now for an account."""
        if not self._seen:
            return frozenset()
        return frozenset(
            model.identifier
            for model in self._registry.models
            if self.bar(model, account) is not None
        )

    def unwell(self) -> list[tuple[ModelSettings, bool]]:
        """Return the models whose breakers are not closed, and whether each is due for a probe."""
        if not self._seen:
            return []
        probed = {each for held in self._probes.values() for each in held}
        circuits = ((model, self.circuit_of(model)) for model in self._registry.models)
        return [
            (model, circuit not in probed and self._seen[circuit].is_due(self._clock.monotonic()))
            for model, circuit in circuits
            if circuit in self._seen
        ]

    def may_retry(self, model: ModelSettings) -> bool:
        """Take a second try out of the provider's budget, if there is one left."""
        return self._budget(model).spend(self._clock.monotonic())

    def _budget(self, model: ModelSettings) -> Budget:
        found = self._budgets.get(model.provider)
        if found is None:
            found = Budget(self._settings.retries, self._clock.monotonic())
            self._budgets[model.provider] = found
        return found

    # -- a call ------------------------------------------------------------------------------------

    def call(
        self,
        model: ModelSettings,
        caller: Caller,
        *,
        lane: Lane,
        tokens: int,
        is_retry: bool = False,
    ) -> Call:
        """Return a call of a model of the registry; `tokens` is what it may take, in and out.

        A ProviderError that leaves the block counts as its cause says.

        Raises (on entering):
            BarredError: no call is to be made now.
            UnavailableError: Redis was to be asked, and cannot be reached.

        """
        return Call(self, model, caller, lane, tokens, is_retry=is_retry)

    async def begin(self, call: Call) -> None:
        """Let a call be made, or raise; what was taken for one that may not be is given back."""
        provider = self._registry.catalogue.provider_of(call.model)
        try:
            for circuit in call.circuits:
                if circuit in self._seen:
                    await self._probe(call, circuit)
            # Room is given back whole; a turn at a throttled provider that is not used is lost.
            if provider.is_limited:
                await self._admit(call, Limits(provider))
            await self.throttles.take_turn(call.model, call.circuit, call.lane, call.caller)
        except BaseException:
            self._let_go(call)
            self.give_back(self.permits.drop(call.caller.message, provider.name))
            raise
        call.is_sent = True
        call.number = self.throttles.sent(call.circuit)
        if not call.is_retry:
            self._budget(call.model).earn()

    async def end(self, call: Call, error: BaseException | None) -> None:
        """Take in what came of a call."""
        if error is None:
            self._answered.count(call.circuit, call.own_circuit)
            self.end_probe(call, is_well=True)
        elif isinstance(error, ProviderError) and not isinstance(error, BarredError):
            self._depart(call)
            await self._fail(call, error)
        self._let_go(call)

    def took_on(self, call: Call) -> None:
        """Note that a provider has begun to answer a call."""
        self.end_probe(call, is_well=True)

    async def _probe(self, call: Call, circuit: str) -> None:
        """Be the one that tries a circuit that was open, or raise BarredError."""
        barred = self._bar(call.model, circuit)
        if barred is not None:
            raise barred
        ask = ProbeAsk(
            circuit=circuit, call=call.id, account=call.caller.account, lease_ms=_LEASE_MS
        )
        self._probes.setdefault(call.id, []).append(circuit)
        breaker = await functions.probe(self._redis, self._root, ask)
        if breaker is None:
            logs.logger().info("breaker probed", circuit=circuit)
            return
        self._probes[call.id].remove(circuit)
        self._note(circuit, breaker)
        barred = self._bar(call.model, circuit)
        if barred is not None:
            raise barred

    async def _admit(self, call: Call, limits: Limits) -> None:
        """Take room in the provider's limits, or raise BarredError."""
        permit = self.permits.use(limits.provider.name, call.lane, call.caller.message)
        if permit is not None:
            call.tokens = permit.tokens
            self._slots[call.id] = (permit.provider, permit.lane, permit.id)
            self._slots.pop(permit.id, None)
            return
        ask = limits.admission(call.id, call.lane, call.tokens, _LEASE_MS)
        wait_ms: int | None = None
        try:
            wait_ms = await functions.admit(self._redis, self._root, ask)
        finally:
            # A report keeps what is noted here, so no call that only asks; but one whose answer
            # never came may have been let in.
            if wait_ms is None:
                self._slots[call.id] = (limits.provider.name, call.lane, call.id)
        if wait_ms is not None:
            self.permits.note_full(limits.provider.name)
            raise barred(call.model, "busy", wait_ms / 1000)

    # -- room for calls to come --------------------------------------------------------------------

    async def permit(self, provider: str, lane: Lane) -> float | None:
        """Take room in a provider's limits for a call to come, and return None.

        Else in how many seconds there may be some, 0: unknown. Raises UnavailableError.
        """
        limits = Limits(self._registry.catalogue.by_provider[provider])
        permit = Permit(provider, lane, ids.new_id(), self.permits.usual_tokens(provider))
        ask = limits.admission(permit.id, lane, permit.tokens, _LEASE_MS)
        wait_ms = await functions.admit(self._redis, self._root, ask)
        if wait_ms is not None:
            return wait_ms / 1000
        self._slots[permit.id] = (provider, lane, permit.id)
        self.permits.add(permit)
        return None

    def give_back(self, unused: Sequence[Permit]) -> set[str]:
        """Give back room that nobody will use; return at which providers."""
        for permit in unused:
            self._slots.pop(permit.id, None)
            limits = Limits(self._registry.catalogue.by_provider[permit.provider])
            ask = limits.departure(permit.id, permit.lane, permit.tokens, None)
            functions.depart(self._redis, self._root, ask)
        return {permit.provider for permit in unused}

    def _let_go(self, call: Call) -> None:
        """Give back what a call still holds."""
        self._depart(call)
        self.end_probe(call, is_well=False)

    def _depart(self, call: Call) -> None:
        slot = self._slots.pop(call.id, None) if self._slots else None
        if slot is not None:
            provider, lane, name = slot
            limits = Limits(self._registry.catalogue.provider_of(call.model))
            used = call.spent_tokens() if call.is_sent else None
            functions.depart(
                self._redis, self._root, limits.departure(name, lane, call.tokens, used)
            )
            if used is not None:
                self.permits.note_end(provider, used)

    def end_probe(self, call: Call, *, is_well: bool) -> None:
        """Close the breakers whose probe the call was, or let another call be that."""
        if not self._probes:
            return
        for circuit in self._probes.pop(call.id, ()):
            ask = EndProbeAsk(circuit=circuit, call=call.id, is_well=is_well)
            functions.end_probe(self._redis, self._root, ask)
            if is_well:
                self._seen.pop(circuit, None)
                logs.logger().info("breaker closed", circuit=circuit)
            elif circuit in self._seen:
                self._seen[circuit] = self._seen[circuit].given_back(self._clock.monotonic())

    async def _fail(self, call: Call, error: ProviderError) -> None:
        """Tell the fleet of a failure; one that cannot be told is logged."""
        cause = causes.cause_of(error.failure)
        try:
            if cause.closes == "throttle":
                after = bounded(error.retry_after_seconds)
                error.retry_after_seconds = await self.throttles.refused(call.circuit, after)
            elif cause.closes == "circuit":
                about = (call.circuit, call.id, call.caller)
                await self._count(call, failing(*about, error, self._settings.breaker))
        except PolluxError as trouble:
            logs.logger().info("a failure was not told", error=trouble.message)

    async def _count(self, call: Call, ask: FailAsk) -> None:
        """Count a failure towards the breakers, which it may open."""
        self._probes.pop(call.id, None)
        weighed = self._answered.against(ask, call.own_circuit)
        told = await functions.fail(self._redis, self._root, weighed)
        self._note(told.circuit, told.breaker)
        if told.is_new:
            seconds = round(told.breaker.left_ms / 1000, 1)
            why = told.breaker.why
            logs.logger().warning("breaker opened", circuit=told.circuit, why=why, seconds=seconds)

    # -- the fleet ---------------------------------------------------------------------------------

    def tell(self) -> Calls:
        """Return what goes with the next report; what it counts is not counted again."""
        answered = self._answered.told()
        return Calls(
            slots=tuple(self._slots.values()),
            probes=tuple((each, call) for call, held in self._probes.items() for each in held),
            answered=answered,
            lease_ms=_LEASE_MS,
            window_ms=int(self._settings.breaker.window_seconds * 1000),
        )

    def hear(
        self, breakers: Mapping[str, Breaker], throttles: AbstractSet[str], living: int = 1
    ) -> None:
        """Take in which of the fleet's breakers are not closed, who is throttled, who lives."""
        self.throttles.hear(throttles, living)
        self._seen.clear()
        for circuit, breaker in breakers.items():
            self._note(circuit, breaker)

    def spared(self) -> tuple[str, ...]:
        """Return the circuits that are not closed to anybody, as far as is known here."""
        return tuple(sorted(circuit for circuit in self._seen if "@" not in circuit))

    def _note(self, circuit: str, breaker: Breaker) -> None:
        self._seen.pop(circuit, None)
        if breaker.state != "closed":
            self._seen[circuit] = Seen.of(breaker, self._clock.monotonic())
