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
from shared.errors import CallBlockedError, PolluxError, ProviderError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import BeginProbeAsk, Breaker, EndProbeAsk, RecordFailureAsk
from shared.settings import ModelSettings, Settings
from shared.stores.fleet import CallReport
from shared.telemetry import logs
from shared.wire.submission import Lane
from worker.providers.rate_limit_headers import RateLimits
from worker.providers.registry import Registry
from worker.resilience import failure_causes
from worker.resilience.circuits import (
    AnsweredCalls,
    Caller,
    OpenCircuit,
    account_circuit,
    barred,
    bounded_retry_after,
    failure_ask,
)
from worker.resilience.permits import Permit, Permits
from worker.resilience.provider_rate_limits import ProviderRateLimits
from worker.resilience.retry_budget import RetryBudget
from worker.resilience.throttles import Throttles

_LEASE_MS: Final = 5_000  # a few reports


class UpstreamCall:
    """One call: entering raises BarredError if it may not be made, leaving tells what came of it.

    Tell it when an answer has `begun`, be it without a word, when the model is `heard()`, and the
    `used_tokens` where they are known.
    """

    def __init__(
        self,
        circuit_breaker: "CircuitBreaker",
        model: ModelSettings,
        caller: Caller,
        lane: Lane,
        tokens: int,
        *,
        is_retry: bool,
    ) -> None:
        self.model = model
        self.caller = caller
        self.circuit = circuit_breaker.circuit_of(model)
        self.account_circuit = account_circuit(self.circuit, caller.account)
        self.lane = lane
        self.tokens = tokens
        self.used_tokens: int | None = None
        self.is_retry = is_retry
        self.is_sent = self.has_first_part = self.is_accepted = False
        self.number = 0
        self._circuit_breaker = circuit_breaker

    @property
    def circuits(self) -> tuple[str, str]:
        """The circuit of all, and that of the caller's account."""
        return self.circuit, self.account_circuit

    @cached_property
    def id(self) -> str:
        """What the call is told from others by, made for the first who asks."""
        return ids.new_id()

    async def __aenter__(self) -> Self:
        await self._circuit_breaker.begin(self)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._circuit_breaker.end(self, error)

    def note_response(self, limits: RateLimits | None) -> None:
        """Tell that an answer has begun, and what its head says of the provider's limits."""
        self.is_accepted = True
        if limits is not None and limits.requests is not None:
            self._circuit_breaker.throttles.note_remaining(
                self.circuit, self.number, limits.requests
            )

    def note_first_part(self) -> None:
        """Tell that the model has begun to answer: a probe has learnt what it was to learn."""
        if not self.has_first_part:
            self.has_first_part = self.is_accepted = True
            self._circuit_breaker.note_answering(self)

    def spent_tokens(self) -> int:
        """Return what to reckon with: nothing of a call that was refused."""
        if self.used_tokens is not None:
            return self.used_tokens
        return self.tokens if self.has_first_part else 0


class CircuitBreaker:
    """What a worker knows of upstreams' health, and its own part in the fleet's calls."""

    def __init__(
        self, settings: Settings, redis: Connection, clock: Clock, registry: Registry
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._clock = clock
        self._registry = registry
        self._root = keys.system_root(settings.redis)
        self._open_circuits: dict[str, OpenCircuit] = {}
        self._provider_slots: dict[str, tuple[str, Lane, str]] = {}
        self._probes: dict[str, list[str]] = {}
        self._answered_calls = AnsweredCalls(settings.breaker, clock)
        self.throttles = Throttles(redis, self._root, clock)
        self._retry_budgets: dict[str, RetryBudget] = {}
        self.permits = Permits(clock)

    def with_registry(self, registry: Registry) -> Self:
        """Return a gate over another catalogue that knows and counts with this one."""
        circuit_breaker = copy.copy(self)
        circuit_breaker._registry = registry  # noqa: SLF001  of the same class
        return circuit_breaker

    def circuit_of(self, model: ModelSettings) -> str:
        """Return what fails together with a model."""
        return self._registry.circuit_of(model)

    # -- what is known without asking --------------------------------------------------------------

    def find_bar(self, model: ModelSettings, account: str) -> CallBlockedError | None:
        """Return why an account's call of a model would not be made now, as far as is known."""
        circuit = self.circuit_of(model)
        bars = (
            self._find_bar(model, each) for each in (circuit, account_circuit(circuit, account))
        )
        return next((bar for bar in bars if bar is not None), None)

    def _find_bar(self, model: ModelSettings, circuit: str) -> CallBlockedError | None:
        open_circuit = self._open_circuits.get(circuit)
        left = open_circuit.probe_at - self._clock.monotonic() if open_circuit is not None else 0.0
        if open_circuit is None or left <= 0:
            return None
        if "@" in circuit:
            return barred(model, "slowed", left)
        return barred(
            model, "probing" if open_circuit.is_probing else "cooling", left, open_circuit.why
        )

    def cooling(self, account: str) -> frozenset[str]:
        """Return the models that would not be called now for an account."""
        if not self._open_circuits:
            return frozenset()
        return frozenset(
            model.identifier
            for model in self._registry.models
            if self.find_bar(model, account) is not None
        )

    def open_circuit_models(self) -> list[tuple[ModelSettings, bool]]:
        """Return the models whose breakers are not closed, and whether each is due for a probe."""
        if not self._open_circuits:
            return []
        probed = {each for held in self._probes.values() for each in held}
        circuits = ((model, self.circuit_of(model)) for model in self._registry.models)
        return [
            (
                model,
                circuit not in probed
                and self._open_circuits[circuit].is_due(self._clock.monotonic()),
            )
            for model, circuit in circuits
            if circuit in self._open_circuits
        ]

    def take_retry(self, model: ModelSettings) -> bool:
        """Take a second try out of the provider's budget, if there is one left."""
        return self._retry_budget(model).try_withdraw(self._clock.monotonic())

    def _retry_budget(self, model: ModelSettings) -> RetryBudget:
        found = self._retry_budgets.get(model.provider)
        if found is None:
            found = RetryBudget(self._settings.retries, self._clock.monotonic())
            self._retry_budgets[model.provider] = found
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
    ) -> UpstreamCall:
        """Return a call of a model of the registry; `tokens` is what it may take, in and out.

        A ProviderError that leaves the block counts as its cause says.

        Raises (on entering):
            BarredError: no call is to be made now.
            UnavailableError: Redis was to be asked, and cannot be reached.

        """
        return UpstreamCall(self, model, caller, lane, tokens, is_retry=is_retry)

    async def begin(self, call: UpstreamCall) -> None:
        """Let a call be made, or raise; what was taken for one that may not be is given back."""
        provider = self._registry.catalogue.provider_of(call.model)
        try:
            for circuit in call.circuits:
                if circuit in self._open_circuits:
                    await self._probe(call, circuit)
            # Room is given back whole; a turn at a throttled provider that is not used is lost.
            if provider.is_limited:
                await self._admit(call, ProviderRateLimits(provider))
            await self.throttles.take_turn(call.model, call.circuit, call.lane, call.caller)
        except BaseException:
            self._release_call(call)
            self.return_permits(self.permits.drop(call.caller.message, provider.name))
            raise
        call.is_sent = True
        call.number = self.throttles.note_sent(call.circuit)
        if not call.is_retry:
            self._retry_budget(call.model).deposit()

    async def end(self, call: UpstreamCall, error: BaseException | None) -> None:
        """Take in what came of a call."""
        if error is None:
            self._answered_calls.count(call.circuit, call.account_circuit)
            self.end_probe(call, is_well=True)
        elif isinstance(error, ProviderError) and not isinstance(error, CallBlockedError):
            self._give_back_room(call)
            await self._report_failure(call, error)
        self._release_call(call)

    def note_answering(self, call: UpstreamCall) -> None:
        """Note that a provider has begun to answer a call."""
        self.end_probe(call, is_well=True)

    async def _probe(self, call: UpstreamCall, circuit: str) -> None:
        """Be the one that tries a circuit that was open, or raise BarredError."""
        barred = self._find_bar(call.model, circuit)
        if barred is not None:
            raise barred
        ask = BeginProbeAsk(
            circuit=circuit, call=call.id, account=call.caller.account, lease_ms=_LEASE_MS
        )
        self._probes.setdefault(call.id, []).append(circuit)
        breaker = await functions.begin_probe(self._redis, self._root, ask)
        if breaker is None:
            logs.logger().info("breaker probed", circuit=circuit)
            return
        self._probes[call.id].remove(circuit)
        self._note_breaker(circuit, breaker)
        barred = self._find_bar(call.model, circuit)
        if barred is not None:
            raise barred

    async def _admit(self, call: UpstreamCall, limits: ProviderRateLimits) -> None:
        """Take room in the provider's limits, or raise BarredError."""
        permit = self.permits.take_assigned(limits.provider.name, call.lane, call.caller.message)
        if permit is not None:
            call.tokens = permit.tokens
            self._provider_slots[call.id] = (permit.provider, permit.lane, permit.id)
            self._provider_slots.pop(permit.id, None)
            return
        ask = limits.admit_ask(call.id, call.lane, call.tokens, _LEASE_MS)
        wait_ms: int | None = None
        try:
            wait_ms = await functions.admit_call(self._redis, self._root, ask)
        finally:
            # A report keeps what is noted here, so no call that only asks; but one whose answer
            # never came may have been let in.
            if wait_ms is None:
                self._provider_slots[call.id] = (limits.provider.name, call.lane, call.id)
        if wait_ms is not None:
            self.permits.note_full(limits.provider.name)
            raise barred(call.model, "busy", wait_ms / 1000)

    # -- room for calls to come --------------------------------------------------------------------

    async def take_permit(self, provider: str, lane: Lane) -> float | None:
        """Take room in a provider's limits for a call to come, and return None.

        Else in how many seconds there may be some, 0: unknown. Raises UnavailableError.
        """
        limits = ProviderRateLimits(self._registry.catalogue.by_provider[provider])
        permit = Permit(provider, lane, ids.new_id(), self.permits.typical_tokens(provider))
        ask = limits.admit_ask(permit.id, lane, permit.tokens, _LEASE_MS)
        wait_ms = await functions.admit_call(self._redis, self._root, ask)
        if wait_ms is not None:
            return wait_ms / 1000
        self._provider_slots[permit.id] = (provider, lane, permit.id)
        self.permits.add(permit)
        return None

    def return_permits(self, unused: Sequence[Permit]) -> set[str]:
        """Give back room that nobody will use; return at which providers."""
        for permit in unused:
            self._provider_slots.pop(permit.id, None)
            limits = ProviderRateLimits(self._registry.catalogue.by_provider[permit.provider])
            ask = limits.depart_ask(permit.id, permit.lane, permit.tokens, None)
            functions.end_call(self._redis, self._root, ask)
        return {permit.provider for permit in unused}

    def _release_call(self, call: UpstreamCall) -> None:
        """Give back what a call still holds."""
        self._give_back_room(call)
        self.end_probe(call, is_well=False)

    def _give_back_room(self, call: UpstreamCall) -> None:
        slot = self._provider_slots.pop(call.id, None) if self._provider_slots else None
        if slot is not None:
            provider, lane, name = slot
            limits = ProviderRateLimits(self._registry.catalogue.provider_of(call.model))
            used = call.spent_tokens() if call.is_sent else None
            functions.end_call(
                self._redis, self._root, limits.depart_ask(name, lane, call.tokens, used)
            )
            if used is not None:
                self.permits.note_end(provider, used)

    def end_probe(self, call: UpstreamCall, *, is_well: bool) -> None:
        """Close the breakers whose probe the call was, or let another call be that."""
        if not self._probes:
            return
        for circuit in self._probes.pop(call.id, ()):
            ask = EndProbeAsk(circuit=circuit, call=call.id, is_well=is_well)
            functions.end_probe(self._redis, self._root, ask)
            if is_well:
                self._open_circuits.pop(circuit, None)
                logs.logger().info("breaker closed", circuit=circuit)
            elif circuit in self._open_circuits:
                self._open_circuits[circuit] = self._open_circuits[circuit].given_back(
                    self._clock.monotonic()
                )

    async def _report_failure(self, call: UpstreamCall, error: ProviderError) -> None:
        """Tell the fleet of a failure; one that cannot be told is logged."""
        cause = failure_causes.cause_of(error.failure)
        try:
            if cause.closes == "throttle":
                after = bounded_retry_after(error.retry_after_seconds)
                error.retry_after_seconds = await self.throttles.note_refusal(call.circuit, after)
            elif cause.closes == "circuit":
                about = (call.circuit, call.id, call.caller)
                await self._count_failure(call, failure_ask(*about, error, self._settings.breaker))
        except PolluxError as unreported:
            logs.logger().info("a failure was not told", error=unreported.message)

    async def _count_failure(self, call: UpstreamCall, ask: RecordFailureAsk) -> None:
        """Count a failure towards the breakers, which it may open."""
        self._probes.pop(call.id, None)
        weighed = self._answered_calls.with_answered(ask, call.account_circuit)
        opened = await functions.record_failure(self._redis, self._root, weighed)
        self._note_breaker(opened.circuit, opened.breaker)
        if opened.is_new:
            seconds = round(opened.breaker.left_ms / 1000, 1)
            why = opened.breaker.why
            logs.logger().warning(
                "breaker opened", circuit=opened.circuit, why=why, seconds=seconds
            )

    # -- the fleet ---------------------------------------------------------------------------------

    def take_report(self) -> CallReport:
        """Return what goes with the next report; what it counts is not counted again."""
        answered = self._answered_calls.take_report()
        return CallReport(
            slots=tuple(self._provider_slots.values()),
            probes=tuple((each, call) for call, held in self._probes.items() for each in held),
            answered=answered,
            lease_ms=_LEASE_MS,
            window_ms=int(self._settings.breaker.window_seconds * 1000),
        )

    def update(
        self, breakers: Mapping[str, Breaker], throttles: AbstractSet[str], live_workers: int = 1
    ) -> None:
        """Take in which of the fleet's breakers are not closed, who is throttled, who lives."""
        self.throttles.update(throttles, live_workers)
        self._open_circuits.clear()
        for circuit, breaker in breakers.items():
            self._note_breaker(circuit, breaker)

    def open_circuits(self) -> tuple[str, ...]:
        """Return the circuits that are not closed to anybody, as far as is known here."""
        return tuple(sorted(circuit for circuit in self._open_circuits if "@" not in circuit))

    def _note_breaker(self, circuit: str, breaker: Breaker) -> None:
        self._open_circuits.pop(circuit, None)
        if breaker.state != "closed":
            self._open_circuits[circuit] = OpenCircuit.of(breaker, self._clock.monotonic())
