"""The course of an upgrade, with one version in both places; the full run is by the command."""

import sys
from pathlib import Path

import pytest

from tests.chaos import upgrade
from tests.chaos.upgrade import Plan


@pytest.mark.timeout(240)
async def test_upgrade_and_downgrade_lose_nothing() -> None:
    plan = Plan(
        old=Path(sys.executable).parent / "pollux",
        seconds=3.5,
        clients=6,
        fronts=1,
        workers=1,
        kill_seconds=0.5,
        goes_again=False,
    )
    report = await upgrade.run(plan)
    assert report.faults == []
    assert report.kills
    assert {"old POST", "new POST"} <= set(report.seen)
    assert report.stages["completed"]
