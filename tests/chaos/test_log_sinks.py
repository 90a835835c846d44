"""Logs that cannot be written: every message is still answered, and processes end in time."""

from pathlib import Path

import pytest

from tests.chaos import log_sinks
from tests.chaos.log_sinks import Kind, Outcome
from tests.support.system import System, system

__all__ = ["system"]

pytestmark = pytest.mark.timeout(60)

WELL = Outcome(log_sinks.MESSAGES, is_healthy=True, has_ended=True)


@pytest.mark.parametrize("kind", ["closed pipe", "full pipe", "full disk"])
async def test_a_sink_that_fails_costs_nobody_an_answer(
    system: System, kind: Kind, tmp_path: Path
) -> None:
    assert await log_sinks.observe(system, kind, tmp_path) == WELL


async def test_several_fronts_of_one_port_survive_a_full_pipe(
    system: System, tmp_path: Path
) -> None:
    assert await log_sinks.observe(system, "full pipe", tmp_path, fronts=2) == WELL
