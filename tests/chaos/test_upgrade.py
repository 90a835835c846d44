"""The steps of an upgrade, with one version in both places; the long run is the command."""

import sys
from pathlib import Path

import pytest

from shared.redis import keys
from shared.settings import RedisSettings
from tests.chaos import invariants, upgrade
from tests.chaos.evidence import Evidence
from tests.chaos.upgrade import Plan
from tests.support import redis_invariants
from tests.support.redis_server import Server


@pytest.mark.timeout(240)
async def test_upgrade_and_downgrade_lose_nothing() -> None:
    plan = Plan(
        old=Path(sys.executable).parent / "pollux",
        seconds=3.5,
        clients=6,
        fronts=1,
        workers=1,
        kill_seconds=0.5,
        upgrades_again=False,
    )
    report = await upgrade.run(plan)
    assert report.faults == []
    assert report.kills
    assert {"old POST", "new POST"} <= set(report.seen)
    assert report.stages["completed"]


def test_the_old_queue_of_chores_is_known_and_nothing_like_it(marked_server: Server) -> None:
    settings = RedisSettings(url=marked_server.url, prefix="chores", partitions=1)
    root = keys.system_root(settings)
    with marked_server.raw_client() as raw_client:
        for name in ("chores", "chore"):
            raw_client("ZADD", f"{root}{name}", 1, "cron:trim")
        others = upgrade.keys_of_older_release(settings)
        [fault] = redis_invariants.faults(raw_client, settings, others)
        assert fault == f"{root}chore: belongs to no family of keys.py"
        assert len(redis_invariants.faults(raw_client, settings)) == 2
        found = invariants.check(raw_client, settings, Evidence(), others)
        assert [finding.description for finding in found] == [fault]
        raw_client("UNLINK", f"{root}chores", f"{root}chore")
