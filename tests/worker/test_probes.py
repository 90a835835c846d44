"""While a call probes an open circuit, no turn is claimed to probe it as well."""

import pytest
from typing_extensions import override

from shared import ids
from shared.errors import Failure, ProviderError
from shared.redis.functions import Breaker
from shared.settings import ModelSettings
from tests.worker.front import Front
from tests.worker.single_attempts import ANN, Attempts, ImpatientClock
from worker.resilience.circuit_breaker import CircuitBreaker
from worker.resilience.circuits import Caller

_FAILED = ProviderError(Failure(message="No.", category="timeout", code="X"), retry="backoff")
_REFUSED = ProviderError(Failure(message="No.", category="invalid_request", code="X"))


async def _freeze(circuit_breaker: CircuitBreaker, model: ModelSettings) -> None:
    """Let a model cool."""
    for _ in range(5):
        caller = Caller(ids.new_id(), ids.new_id())
        call = circuit_breaker.call(model, caller, lane="interactive", tokens=1)
        await circuit_breaker.begin(call)
        await circuit_breaker.end(call, _FAILED)


class _LateClock(ImpatientClock):
    """A clock that a test sets ahead."""

    ahead = 0.0

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.mark.parametrize("is_told", [True, False])
async def test_no_turn_is_claimed_for_a_circuit_while_a_call_of_this_worker_probes_it(
    attempts: Attempts, front: Front, *, is_told: bool
) -> None:
    clock = attempts.clock = _LateClock()
    alpha, circuit_breaker = attempts.settings.models[0], attempts.circuit_breaker
    await _freeze(circuit_breaker, alpha)
    await front.thaw(circuit_breaker)
    assert circuit_breaker.open_circuit_models() == [(alpha, True)]
    call = circuit_breaker.call(alpha, ANN, lane="interactive", tokens=1)
    await circuit_breaker.begin(call)
    if is_told:
        circuit_breaker.update({call.circuit: Breaker("probing", 5_000, "timeout")}, frozenset())
    for _ in range(3):
        assert circuit_breaker.open_circuit_models() == [(alpha, False)]
        clock.ahead += 1.5
    await circuit_breaker.end(call, _REFUSED)
    # Nothing was learnt: another may probe at once.
    assert circuit_breaker.open_circuit_models() == [(alpha, True)]


async def test_no_turn_is_claimed_for_a_circuit_while_another_worker_probes_it(
    attempts: Attempts,
) -> None:
    clock = attempts.clock = _LateClock()
    alpha, circuit_breaker = attempts.settings.models[0], attempts.circuit_breaker
    circuit = circuit_breaker.circuit_of(alpha)
    for _ in range(3):
        circuit_breaker.update({circuit: Breaker("probing", 5_000, "timeout")}, frozenset())
        # The next report comes late.
        clock.ahead += 1.5
        assert circuit_breaker.open_circuit_models() == [(alpha, False)]
    circuit_breaker.update({circuit: Breaker("due", 0, "timeout")}, frozenset())
    assert circuit_breaker.open_circuit_models() == [(alpha, True)]
    circuit_breaker.update({circuit: Breaker("open", 2_000, "timeout")}, frozenset())
    assert circuit_breaker.open_circuit_models() == [(alpha, False)]
    clock.ahead += 2.5
    assert circuit_breaker.open_circuit_models() == [(alpha, True)]
    circuit_breaker.update({}, frozenset())
    assert circuit_breaker.open_circuit_models() == []
