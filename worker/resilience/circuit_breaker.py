"""Admits every upstream call, or blocks it: breaker, rate limits, throttle, retry budget.

    async with circuit_breaker.call(model, run.caller, lane="interactive", tokens=1_200) as call:
        async for part in registry.provider_of(model).stream(request):
            call.note_first_part()
        call.used_tokens = 900

Owns whether a call is made: the breaker of each circuit (a provider's model under one credential,
for all accounts or for one), then `rate_limiter`, `throttles` and the retry budget. What a failure
closes is in `failure_causes`. A call that may not be made raises CallBlockedError before anything
is sent, with the reason and a wait. Refuses to wait, to retry and to choose another model: the
steps do.

DESIGN. Breakers, throttles and limits are the fleet's, in Redis. Each report of a worker brings
back which breakers are not closed and which circuits are throttled, and the worker keeps that in
memory; it counts answered calls here and sends the counts with its report. So a call through a
closed breaker to a provider without limits, which never refused a call, costs no Redis trip. A
failure is reported at once. The report also renews the leases of probes under way; those of a dead
worker lapse.
"""

import copy
from collections.abc import Mapping, Set as AbstractSet
from functools import cached_property
from typing import Self

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
from worker.resilience.rate_limiter import LEASE_MS, RateLimiter
from worker.resilience.retry_budget import RetryBudget
from worker.resilience.throttles import Throttles


class UpstreamCall:
    """One call. Entering raises CallBlockedError if it may not be made; leaving counts its result.

    Call `note_response` when the response has begun, `note_first_part` at each part, and set
    `used_tokens` once known.
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
        """The circuit of all accounts, and the circuit of the caller's account."""
        return self.circuit, self.account_circuit

    @cached_property
    def id(self) -> str:
        """The id of the call in Redis, made on first use."""
        return ids.new_id()

    async def __aenter__(self) -> Self:
        await self._circuit_breaker.begin(self)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._circuit_breaker.end(self, error)

    def note_response(self, limits: RateLimits | None) -> None:
        """Note that a response has begun, and the rate limits that its headers name."""
        self.is_accepted = True
        if limits is not None and limits.requests is not None:
            self._circuit_breaker.throttles.note_remaining(
                self.circuit, self.number, limits.requests
            )

    def note_first_part(self) -> None:
        """Note that the model has begun to answer: a probe has succeeded."""
        if not self.has_first_part:
            self.has_first_part = self.is_accepted = True
            self._circuit_breaker.note_answering(self)

    def spent_tokens(self) -> int:
        """Return the tokens to count: those used, else the estimate; 0 for a refused call."""
        if self.used_tokens is not None:
            return self.used_tokens
        return self.tokens if self.has_first_part else 0


class CircuitBreaker:
    """What a worker knows of the upstreams' health, and its own share of the fleet's calls."""

    def __init__(
        self, settings: Settings, redis: Connection, clock: Clock, registry: Registry
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._clock = clock
        self._registry = registry
        self._root = keys.system_root(settings.redis)
        self._open_circuits: dict[str, OpenCircuit] = {}
        self._probes: dict[str, list[str]] = {}
        self._answered_calls = AnsweredCalls(settings.breaker, clock)
        self.throttles = Throttles(redis, self._root, clock)
        self._retry_budgets: dict[str, RetryBudget] = {}
        self.rate_limiter = RateLimiter(redis, self._root, clock)

    def with_registry(self, registry: Registry) -> Self:
        """Return a circuit breaker over another catalogue that shares this one's state."""
        circuit_breaker = copy.copy(self)
        circuit_breaker._registry = registry  # noqa: SLF001  of the same class
        return circuit_breaker

    def circuit_of(self, model: ModelSettings) -> str:
        """Return the circuit of a model."""
        return self._registry.circuit_of(model)

    # -- what is known without asking Redis --------------------------------------------------------

    def find_bar(self, model: ModelSettings, account: str) -> CallBlockedError | None:
        """Return why an account's call of a model would be blocked now, as far as is known."""
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
        """Return the models whose calls would be blocked now for an account."""
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
        """Take a retry from the provider's budget, if one is left."""
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
        """Return a call of a model of the registry; `tokens` estimates its input plus output.

        A ProviderError that leaves the `async with` block is counted by its cause.

        Raises (on entering):
            CallBlockedError: the call may not be made now.
            UnavailableError: Redis must be asked, and cannot be reached.

        """
        return UpstreamCall(self, model, caller, lane, tokens, is_retry=is_retry)

    async def begin(self, call: UpstreamCall) -> None:
        """Admit a call, or raise; what was taken for a blocked call is returned."""
        provider = self._registry.catalogue.provider_of(call.model)
        try:
            for circuit in call.circuits:
                if circuit in self._open_circuits:
                    await self._probe(call, circuit)
            # Room can be returned, a turn of a throttle cannot: so room is taken first.
            if provider.is_limited:
                await self.rate_limiter.admit(call, provider)
            await self.throttles.take_turn(call.model, call.circuit, call.lane, call.caller)
        except BaseException:
            self._release_call(call)
            unused = self.rate_limiter.permits.drop(call.caller.message, provider.name)
            self.rate_limiter.return_permits(unused)
            raise
        call.is_sent = True
        call.number = self.throttles.note_sent(call.circuit)
        if not call.is_retry:
            self._retry_budget(call.model).deposit()

    async def end(self, call: UpstreamCall, error: BaseException | None) -> None:
        """Count the result of a call and return what it held."""
        if error is None:
            self._answered_calls.count(call.circuit, call.account_circuit)
            self.end_probe(call, is_well=True)
        elif isinstance(error, ProviderError) and not isinstance(error, CallBlockedError):
            self.rate_limiter.release(call, self._registry.catalogue)
            await self._report_failure(call, error)
        self._release_call(call)

    def note_answering(self, call: UpstreamCall) -> None:
        """Note that a provider has begun to answer a call."""
        self.end_probe(call, is_well=True)

    async def _probe(self, call: UpstreamCall, circuit: str) -> None:
        """Become the one probe of an open circuit, or raise CallBlockedError."""
        barred = self._find_bar(call.model, circuit)
        if barred is not None:
            raise barred
        ask = BeginProbeAsk(
            circuit=circuit, call=call.id, account=call.caller.account, lease_ms=LEASE_MS
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

    def _release_call(self, call: UpstreamCall) -> None:
        """Return what a call still holds: its room and its probes."""
        self.rate_limiter.release(call, self._registry.catalogue)
        self.end_probe(call, is_well=False)

    def end_probe(self, call: UpstreamCall, *, is_well: bool) -> None:
        """Close the breakers that the call probed, or let another call probe them."""
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
        """Report a failure to the fleet; if Redis cannot take it, log that."""
        cause = failure_causes.cause_of(error.failure)
        try:
            if cause.closes == "throttle":
                after = bounded_retry_after(error.retry_after_seconds)
                error.retry_after_seconds = await self.throttles.note_refusal(call.circuit, after)
            elif cause.closes == "circuit":
                about = (call.circuit, call.id, call.caller)
                await self._count_failure(call, failure_ask(*about, error, self._settings.breaker))
        except PolluxError as unreported:
            logs.logger().info("a failure could not be reported", error=unreported.message)

    async def _count_failure(self, call: UpstreamCall, ask: RecordFailureAsk) -> None:
        """Count a failure of the call's circuits, which may open their breakers."""
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
        """Return what goes with the next report, and reset its counts."""
        answered = self._answered_calls.take_report()
        return CallReport(
            slots=self.rate_limiter.held(),
            probes=tuple((each, call) for call, held in self._probes.items() for each in held),
            answered=answered,
            lease_ms=LEASE_MS,
            window_ms=int(self._settings.breaker.window_seconds * 1000),
        )

    def update(
        self, breakers: Mapping[str, Breaker], throttles: AbstractSet[str], live_workers: int = 1
    ) -> None:
        """Store the fleet's open breakers, its throttled circuits, and how many workers live."""
        self.throttles.update(throttles, live_workers)
        self._open_circuits.clear()
        for circuit, breaker in breakers.items():
            self._note_breaker(circuit, breaker)

    def open_circuits(self) -> tuple[str, ...]:
        """Return the circuits that are not closed for all accounts, as far as is known here."""
        return tuple(sorted(circuit for circuit in self._open_circuits if "@" not in circuit))

    def _note_breaker(self, circuit: str, breaker: Breaker) -> None:
        self._open_circuits.pop(circuit, None)
        if breaker.state != "closed":
            self._open_circuits[circuit] = OpenCircuit.of(breaker, self._clock.monotonic())
