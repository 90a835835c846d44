"""The gate to the upstreams: whoever calls one goes through here, in these words.

    async with tools.gate.call(model, lane="interactive", tokens=1_200) as call:
        async for part in tools.registry.provider_of(model).stream(request):
            call.heard()
        call.used_tokens = 900

Owns which calls are made at all: the breaker of each circuit (a provider's model under one
credential), the limits of each provider, and the budget of second tries. A call that may not be
made is a BarredError, raised before anything was sent; it says why and for how long. Refuses to
wait, to try again and to choose another model: that is the caller's, who may lose patience.

DESIGN. Breakers and limits are the whole fleet's, in Redis. A worker is told with each report which
breakers are not closed and keeps that in memory; answered calls are counted here and told with the
report. So a call through a closed breaker to a provider without limits asks Redis nothing. A
failure is told at once. Leases of what is under way are kept by the report: those of a worker that
died lapse. Rooms are given back without waiting for an answer.
"""

import copy
import random
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Final, NamedTuple, Self

import msgspec

from shared import ids
from shared.clock import Clock
from shared.errors import Bar, BarredError, Failure, PolluxError, ProviderError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import Breaker, EndProbeAsk, FailAsk, ProbeAsk
from shared.sections import BreakerSettings
from shared.settings import ModelSettings, Settings
from shared.stores.fleet import Calls
from shared.telemetry import logs
from shared.wire.submission import Lane
from worker.budget import Budget
from worker.limits import Limits
from worker.permits import Permit, Permits
from worker.providers.registry import Registry

# Failures of a provider; everything else says nothing about how it is.
OWN_FAULTS: Final = frozenset({"rate_limit", "overloaded", "timeout", "auth", "provider_error"})
# Who asks for less patience than this is waited for, and has not failed.
SHORT_SECONDS: Final = 2.0
_RETRY_AFTER_SECONDS_MAX: Final = 3_600.0
# A few reports.
_LEASE_MS: Final = 5_000
# By then a report has told what became of a probe.
_PROBE_SECONDS: Final = 1.0
_MESSAGES: Final[dict[Bar, tuple[str, str]]] = {
    "cooling": ("PROVIDER_COOLING", "The provider has failed lately and is given time."),
    "probing": ("PROVIDER_COOLING", "The provider has failed lately and is being tried."),
    "busy": ("PROVIDER_BUSY", "The provider's limits leave no room for now."),
}


class Call:
    """One call: entering raises BarredError if it may not be made, leaving tells what came of it.

    Tell it when the model is `heard()`, and the `used_tokens` where they are known.
    """

    def __init__(
        self, gate: "Gate", model: ModelSettings, lane: Lane, tokens: int, *, is_retry: bool
    ) -> None:
        self.model = model
        self.circuit = gate.circuit_of(model)
        self.lane = lane
        self.tokens = tokens
        self.used_tokens: int | None = None
        self.is_retry = is_retry
        self.is_heard = False
        self._gate = gate

    @cached_property
    def id(self) -> str:
        """What the call is told from others by, made for the first who asks."""
        return ids.new_id()

    async def __aenter__(self) -> Self:
        await self._gate.begin(self)
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        await self._gate.end(self, error)

    def heard(self) -> None:
        """Tell that the model has begun to answer: a probe has learnt what it was to learn."""
        if not self.is_heard:
            self.is_heard = True
            self._gate.end_probe(self, is_well=True)

    def spent_tokens(self) -> int:
        """Return what to reckon with: nothing of a call that was refused."""
        if self.used_tokens is not None:
            return self.used_tokens
        return self.tokens if self.is_heard else 0


class _Seen(NamedTuple):
    """A breaker that is not closed; a probe may be asked for at `due`, monotonic, in seconds."""

    is_probing: bool
    due: float
    why: str


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
        self._seen: dict[str, _Seen] = {}
        self._slots: dict[str, tuple[str, Lane, str]] = {}
        self._probes: dict[str, tuple[str, str]] = {}
        self._answered: Counter[str] = Counter()
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

    def bar(self, model: ModelSettings) -> BarredError | None:
        """Return why a model of the registry would not be called now, as far as is known here."""
        seen = self._seen.get(self.circuit_of(model)) if self._seen else None
        left = seen.due - self._clock.monotonic() if seen is not None else 0.0
        if seen is None or left <= 0:
            return None
        return _barred(model, "probing" if seen.is_probing else "cooling", left, seen.why)

    def cooling(self) -> frozenset[str]:
        """Return the models that would not be called now."""
        if not self._seen:
            return frozenset()
        return frozenset(
            model.identifier for model in self._registry.models if self.bar(model) is not None
        )

    def unwell(self) -> list[tuple[ModelSettings, bool]]:
        """Return the models whose breakers are not closed, and whether each is due for a probe."""
        if not self._seen:
            return []
        return [
            (model, self.bar(model) is None)
            for model in self._registry.models
            if self.circuit_of(model) in self._seen
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
        self, model: ModelSettings, *, lane: Lane, tokens: int, is_retry: bool = False
    ) -> Call:
        """Return a call of a model of the registry; `tokens` is what it may take, in and out.

        A ProviderError that leaves the block is the provider's failure, if its category is one.

        Raises (on entering):
            BarredError: no call is to be made now.
            UnavailableError: Redis was to be asked, and cannot be reached.

        """
        return Call(self, model, lane, tokens, is_retry=is_retry)

    async def begin(self, call: Call) -> None:
        """Let a call be made, or raise; what was taken for one that may not be is given back."""
        provider = self._registry.catalogue.provider_of(call.model)
        try:
            if call.circuit in self._seen:
                await self._probe(call)
            if provider.is_limited:
                await self._admit(call, Limits(provider))
        except BaseException:
            self._let_go(call)
            raise
        if not call.is_retry:
            self._budget(call.model).earn()

    async def end(self, call: Call, error: BaseException | None) -> None:
        """Take in what came of a call."""
        if error is None:
            self._answered[call.circuit] += 1
            self.end_probe(call, is_well=True)
        elif isinstance(error, ProviderError) and not isinstance(error, BarredError):
            self._depart(call)
            await self._fail(call, error)
        self._let_go(call)

    async def _probe(self, call: Call) -> None:
        """Be the one that tries a circuit that was open, or raise BarredError."""
        barred = self.bar(call.model)
        if barred is not None:
            raise barred
        self._probes[call.id] = (call.circuit, call.id)
        ask = ProbeAsk(circuit=call.circuit, call=call.id, lease_ms=_LEASE_MS)
        breaker = await functions.probe(self._redis, self._root, ask)
        if breaker is None:
            logs.logger().info("breaker probed", circuit=call.circuit)
            return
        del self._probes[call.id]
        self._note(call.circuit, breaker)
        barred = self.bar(call.model)
        if barred is not None:
            raise barred

    async def _admit(self, call: Call, limits: Limits) -> None:
        """Take room in the provider's limits, or raise BarredError."""
        permit = self.permits.use(limits.provider.name, call.lane)
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
            raise _barred(call.model, "busy", wait_ms / 1000)

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

    def give_back(self, since: float) -> set[str]:
        """Give back room taken before `since` for nobody; return at which providers."""
        unused = self.permits.unused(since)
        for permit in unused:
            self._slots.pop(permit.id, None)
            limits = Limits(self._registry.catalogue.by_provider[permit.provider])
            ask = limits.departure(permit.id, permit.lane, permit.tokens, 0)
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
            ask = limits.departure(name, lane, call.tokens, call.spent_tokens())
            functions.depart(self._redis, self._root, ask)
            self.permits.note_end(provider, call.spent_tokens())

    def end_probe(self, call: Call, *, is_well: bool) -> None:
        """Close the breaker if the call was its probe, or let another call be that."""
        if not self._probes or self._probes.pop(call.id, None) is None:
            return
        ask = EndProbeAsk(circuit=call.circuit, call=call.id, is_well=is_well)
        functions.end_probe(self._redis, self._root, ask)
        if is_well:
            self._seen.pop(call.circuit, None)
            logs.logger().info("breaker closed", circuit=call.circuit)

    async def _fail(self, call: Call, error: ProviderError) -> None:
        """Tell the fleet of a provider's failure; one that cannot be told is not worth another."""
        told = failing(call.circuit, call.id, error, self._settings.breaker)
        if told is None:
            return
        ask = msgspec.structs.replace(told, answered=self._answered[call.circuit])
        self._probes.pop(call.id, None)
        try:
            breaker, is_new = await functions.fail(self._redis, self._root, ask)
        except PolluxError as trouble:
            logs.logger().info("a failure was not told", error=trouble.message)
            return
        self._note(call.circuit, breaker)
        if is_new:
            seconds = round(breaker.left_ms / 1000, 1)
            logs.logger().warning(
                "breaker opened", circuit=call.circuit, why=breaker.why, seconds=seconds
            )

    # -- the fleet ---------------------------------------------------------------------------------

    def tell(self) -> Calls:
        """Return what goes with the next report; what it counts is not counted again."""
        answered = tuple(self._answered.items())
        self._answered.clear()
        return Calls(
            slots=tuple(self._slots.values()),
            probes=tuple(self._probes.values()),
            answered=answered,
            lease_ms=_LEASE_MS,
            window_ms=int(self._settings.breaker.window_seconds * 1000),
        )

    def hear(self, breakers: Mapping[str, Breaker]) -> None:
        """Take in which breakers of the fleet are not closed."""
        self._seen.clear()
        for circuit, breaker in breakers.items():
            self._note(circuit, breaker)

    def spared(self) -> tuple[str, ...]:
        """Return the circuits whose breakers are not closed, as far as is known here."""
        return tuple(sorted(self._seen))

    def _note(self, circuit: str, breaker: Breaker) -> None:
        if breaker.state == "closed":
            self._seen.pop(circuit, None)
            return
        is_probing = breaker.state == "probing"
        seconds = _PROBE_SECONDS if is_probing else breaker.left_ms / 1000
        self._seen[circuit] = _Seen(is_probing, self._clock.monotonic() + seconds, breaker.why)


def failing(
    circuit: str, call: str, error: ProviderError, settings: BreakerSettings
) -> FailAsk | None:
    """Return what is told of a failure, or None for one that says nothing about the provider."""
    category, after = error.failure.category, error.retry_after_seconds
    if category not in OWN_FAULTS:
        return None
    at_once = settings.auth_cooling_seconds if category == "auth" else None
    if after is not None and after > SHORT_SECONDS:
        at_once = min(after, _RETRY_AFTER_SECONDS_MAX)
    elif after is not None and category == "rate_limit":
        return None
    return FailAsk(
        circuit=circuit,
        call=call,
        why=category,
        window_ms=int(settings.window_seconds * 1000),
        failures_min=settings.failures_min,
        failures_share=settings.failures_share,
        cooling_ms=int(settings.cooling_seconds * 1000),
        cooling_max_ms=int(settings.cooling_seconds_max * 1000),
        chance=random.random(),  # noqa: S311  jitter
        at_once_ms=int(at_once * 1000) if at_once is not None else None,
    )


def _barred(model: ModelSettings, why: Bar, seconds: float, cause: str = "") -> BarredError:
    """Return why a call is not made; credentials that were refused get no better by waiting."""
    code, message = _MESSAGES[why]
    is_refused = cause == "auth"
    failure = Failure(
        message="The provider refused the deployment's credentials." if is_refused else message,
        category="auth" if is_refused else "overloaded",
        code=code,
        retryable=not is_refused,
        provider=model.provider,
    )
    return BarredError(failure, why, seconds)
