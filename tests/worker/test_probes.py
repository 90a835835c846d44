"""While a call tries a provider that was closed, no turn is claimed to try it as well."""

import pytest
from typing_extensions import override

from shared import ids
from shared.errors import Failure, ProviderError
from shared.redis.functions import Breaker
from shared.settings import ModelSettings
from tests.worker.attempts import ANN, Attempts, Hasty
from tests.worker.front import Front
from worker.circuits import Caller
from worker.gate import Gate

pytestmark = pytest.mark.each_once

_FAILED = ProviderError(Failure(message="No.", category="timeout", code="X"), retry="backoff")
_REFUSED = ProviderError(Failure(message="No.", category="invalid_request", code="X"))


async def _freeze(gate: Gate, model: ModelSettings) -> None:
    """Let a model cool."""
    for _ in range(5):
        caller = Caller(ids.new_id(), ids.new_id())
        call = gate.call(model, caller, lane="interactive", tokens=1)
        await gate.begin(call)
        await gate.end(call, _FAILED)


class _Later(Hasty):
    """A clock that a test sets ahead."""

    ahead = 0.0

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


@pytest.mark.parametrize("is_told", [True, False])
async def test_no_turn_is_claimed_for_a_circuit_while_a_call_of_this_worker_probes_it(
    attempts: Attempts, front: Front, *, is_told: bool
) -> None:
    clock = attempts.clock = _Later()
    alpha, gate = attempts.settings.models[0], attempts.gate
    await _freeze(gate, alpha)
    await front.thaw(gate)
    assert gate.unwell() == [(alpha, True)]
    call = gate.call(alpha, ANN, lane="interactive", tokens=1)
    await gate.begin(call)
    if is_told:
        gate.hear({call.circuit: Breaker("probing", 5_000, "timeout")}, frozenset())
    for _ in range(3):
        assert gate.unwell() == [(alpha, False)]
        clock.ahead += 1.5
    await gate.end(call, _REFUSED)
    # Nothing was learnt: another may probe at once.
    assert gate.unwell() == [(alpha, True)]


async def test_no_turn_is_claimed_for_a_circuit_while_another_worker_probes_it(
    attempts: Attempts,
) -> None:
    clock = attempts.clock = _Later()
    alpha, gate = attempts.settings.models[0], attempts.gate
    circuit = gate.circuit_of(alpha)
    for _ in range(3):
        gate.hear({circuit: Breaker("probing", 5_000, "timeout")}, frozenset())
        # The next report comes late.
        clock.ahead += 1.5
        assert gate.unwell() == [(alpha, False)]
    gate.hear({circuit: Breaker("due", 0, "timeout")}, frozenset())
    assert gate.unwell() == [(alpha, True)]
    gate.hear({circuit: Breaker("open", 2_000, "timeout")}, frozenset())
    assert gate.unwell() == [(alpha, False)]
    clock.ahead += 2.5
    assert gate.unwell() == [(alpha, True)]
    gate.hear({}, frozenset())
    assert gate.unwell() == []
