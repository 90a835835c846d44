"""Every fault of an upstream has its expected outcome; the printed table times the same rows."""

from collections.abc import AsyncIterator

import pytest

from tests.support.system import System
from tests.worker.providers.upstream import Upstream
from tests.worker.upstream_faults import runner
from tests.worker.upstream_faults.faults import FAULTS, Fault
from tests.worker.upstream_faults.runner import Result

_ALL = [pytest.param(fault, id=fault.name) for fault in FAULTS]
# What waits in the queue for seconds is the table's.
_QUICK = [pytest.param(fault, id=fault.name) for fault in FAULTS if not fault.is_slow]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as listening:
        yield listening


def _check(fault: Fault, result: Result, stage: str, calls: int) -> None:
    assert result.stages == {stage: fault.messages}
    # Of a storm, some begin before the first has failed: not as many as without a breaker.
    assert result.calls == calls or (fault.messages > 1 and result.calls < calls)


@pytest.mark.parametrize("fault", _ALL)
async def test_fault_with_a_second_model_on_the_route(
    system: System, upstream: Upstream, fault: Fault
) -> None:
    result = await runner.play(fault, system, upstream, is_named=False)
    _check(fault, result, fault.expected.auto, fault.expected.auto_calls)


@pytest.mark.parametrize("fault", _QUICK)
async def test_fault_of_the_model_that_was_asked_for(
    system: System, upstream: Upstream, fault: Fault
) -> None:
    result = await runner.play(fault, system, upstream, is_named=True)
    _check(fault, result, fault.expected.named, fault.expected.named_calls)
    assert set(result.codes) == ({fault.expected.code} if fault.expected.code else set())
