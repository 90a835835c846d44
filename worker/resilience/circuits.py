"""Circuits: what fails together, what is reported of a failure, and why a call is blocked.

A circuit is a provider's model under one credential, `provider/model/credential`. Beside it, each
account has one of its own, `provider/model/credential@account`: messages of one account that fail
close only that account's circuit.
"""

import random
from collections import Counter
from typing import Final, NamedTuple, Self

import msgspec

from shared.clock import Clock
from shared.errors import BlockReason, CallBlockedError, Failure, ProviderError
from shared.redis.functions import Breaker, RecordFailureAsk
from shared.settings import BreakerSettings, ModelSettings
from worker.resilience import failure_causes

# A wait up to this keeps the worker's slot; for a longer one the turn returns to the queue.
SHORT_SECONDS: Final = 2.0
# By then a report has brought the result of a probe.
_PROBE_SECONDS: Final = 1.0
_RETRY_AFTER_SECONDS_MAX: Final = 3_600.0
# Failures of this many messages of one account open that account's circuit.
_ACCOUNT_FAILURES: Final = 3
_MESSAGES: Final[dict[BlockReason, tuple[str, str]]] = {
    "cooling": ("PROVIDER_COOLING", "The provider has failed lately and is given time."),
    "probing": ("PROVIDER_COOLING", "The provider has failed lately and is being tried."),
    "slowed": ("PROVIDER_COOLING", "The provider has failed at this account's messages lately."),
    "busy": ("PROVIDER_BUSY", "The provider's limits leave no room for now."),
    "throttled": (
        "PROVIDER_THROTTLED",
        "The provider accepts fewer calls than are waiting for it.",
    ),
}


class Caller(NamedTuple):
    """Who makes a call: the account, and the generation as `message`.

    `is_again`: the message was tried before. `passes_over`: another model would be tried instead of
    waiting for this one.
    """

    account: str
    message: str
    is_again: bool = False
    passes_over: bool = False


def failure_ask(
    circuit: str, call: str, caller: Caller, error: ProviderError, settings: BreakerSettings
) -> RecordFailureAsk:
    """Return the report of a failure that counts towards a circuit."""
    cause = failure_causes.cause_of(error.failure)
    # A `Retry-After` concerns one message only; a circuit never opens after one sample of it.
    at_once = settings.auth_cooling_seconds if cause.at_once else None
    return RecordFailureAsk(
        circuit=circuit,
        call=call,
        account=caller.account,
        message=caller.message,
        why=error.failure.category,
        window_ms=int(settings.window_seconds * 1000),
        failures_min=settings.failures_min,
        failures_share=settings.failures_share,
        account_min=_ACCOUNT_FAILURES,
        cooling_ms=int(settings.cooling_seconds * 1000),
        cooling_max_ms=int(settings.cooling_seconds_max * 1000),
        chance=random.random(),  # noqa: S311  jitter
        is_shared=cause.is_shared,
        at_once_ms=int(at_once * 1000) if at_once is not None else None,
    )


class OpenCircuit(NamedTuple):
    """A breaker that is not closed; a probe may be sent at `probe_at` (monotonic, in seconds)."""

    is_probing: bool
    probe_at: float
    why: str

    @classmethod
    def of(cls, breaker: Breaker, now: float) -> Self:
        """Return what a worker knows of a breaker that is not closed."""
        is_probing = breaker.state == "probing"
        seconds = _PROBE_SECONDS if is_probing else breaker.left_ms / 1000
        return cls(is_probing, now + seconds, breaker.why)

    def is_due(self, now: float) -> bool:
        """Tell whether a turn may be claimed for a probe.

        Not while another call probes: a report brings the result of that one.
        """
        return not self.is_probing and self.probe_at <= now

    def given_back(self, now: float) -> Self:
        """Return the state after a probe without a result: another call may probe at once."""
        return self._replace(is_probing=False, probe_at=now)


class AnsweredCalls:
    """How many calls were answered to this worker lately, by circuit and by account circuit."""

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._window_seconds = settings.window_seconds
        self._clock = clock
        self._unreported: Counter[str] = Counter()
        self._by_account: Counter[str] = Counter()
        self._since = clock.monotonic()

    def count(self, circuit: str, own: str) -> None:
        """Count an answered call."""
        self._unreported[circuit] += 1
        self._by_account[own] += 1

    def take_report(self) -> tuple[tuple[str, int], ...]:
        """Return the counts for a report, and reset them."""
        answered = tuple(self._unreported.items())
        self._unreported.clear()
        if self._clock.monotonic() - self._since > self._window_seconds:
            self._by_account.clear()
            self._since = self._clock.monotonic()
        return answered

    def with_answered(self, ask: RecordFailureAsk, own: str) -> RecordFailureAsk:
        """Return the report of a failure with the number of answered calls to weigh against it."""
        answered, answered_own = self._unreported[ask.circuit], self._by_account[own]
        return msgspec.structs.replace(ask, answered=answered, answered_own=answered_own)


def account_circuit(circuit: str, account: str) -> str:
    """Return the circuit of one account's calls."""
    return f"{circuit}@{account}"


def bounded_retry_after(seconds: float | None) -> float | None:
    """Return the wait that a provider asked for, at most an hour."""
    return None if seconds is None else min(seconds, _RETRY_AFTER_SECONDS_MAX)


def barred(
    model: ModelSettings, why: BlockReason, seconds: float, cause: str = ""
) -> CallBlockedError:
    """Return the error of a blocked call; it is not retryable if credentials were refused."""
    code, message = _MESSAGES[why]
    is_refused = cause == "auth"
    failure = Failure(
        message="The provider refused the deployment's credentials." if is_refused else message,
        category="auth" if is_refused else "overloaded",
        code=code,
        retryable=not is_refused,
        provider=model.provider,
    )
    return CallBlockedError(failure, why, seconds)
