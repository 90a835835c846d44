"""Short runs under faults: kills, stops, deploys, and crashes of Redis, while clients talk."""

import pytest

from shared.settings import Durability, WorkerSettings
from tests.chaos import fault_run
from tests.chaos.fault_run import Plan, Report

pytestmark = pytest.mark.timeout(90)

# Shorter leases than in production, so that many lapse in a short run.
_WORKER = WorkerSettings(
    lease_seconds=0.8, beat_seconds=0.2, reap_seconds=0.1, grace_seconds=0.1, concurrency=8
)
# Leases as in production, so that none lapses on a busy machine.
_CALM = WorkerSettings(grace_seconds=0.1, concurrency=8)


def _nothing_broke(report: Report) -> None:
    assert (report.findings, report.unfinished, report.exits) == ([], [], [])
    assert (
        report.slow_answers,
        report.lost_writes,
        report.failed_ready,
        report.needless_calls,
    ) == (0, 0, 0, 0)
    assert set(report.stages) <= {"completed", "cancelled"}
    assert sum(report.stages.values()) == report.sent


async def test_killed_and_stopped_workers_lose_nothing_and_show_nothing_stale() -> None:
    plan = Plan(kills=4, stops=2, generations=45, workers=4, clients=20, worker=_WORKER)
    report = await fault_run.run(plan)
    _nothing_broke(report)
    assert report.injected == dict.fromkeys(report.injected, 0) | {"kill": 4, "stop": 2}
    assert 0 < len(report.recovered_ms) <= report.wasted


async def test_deploys_fail_nothing_and_consume_no_attempt() -> None:
    plan = Plan(deploys=3, generations=30, workers=3, clients=20, worker=_WORKER)
    report = await fault_run.run(plan)
    _nothing_broke(report)
    assert report.consumed_attempts == 0


@pytest.mark.parametrize("durability", ["process", "fsync"])
async def test_redis_that_is_killed_loses_nothing_it_acknowledged(durability: Durability) -> None:
    plan = Plan(
        crashes=3,
        kills=1,
        durability=durability,
        generations=30,
        workers=3,
        clients=20,
        worker=_WORKER,
    )
    report = await fault_run.run(plan)
    _nothing_broke(report)
    assert len(report.back_ms) == 3


@pytest.mark.parametrize(("hangs", "outages"), [(1, 0), (0, 1)])
async def test_redis_that_is_away_has_no_answer_made_twice(hangs: int, outages: int) -> None:
    plan = Plan(hangs=hangs, outages=outages, generations=25, workers=3, clients=15, worker=_CALM)
    report = await fault_run.run(plan)
    _nothing_broke(report)
    assert max(report.back_ms) > 2_000


async def test_a_fault_in_the_workers_is_named_by_what_it_breaks() -> None:
    report = await fault_run.run(
        Plan(fault="settlement booked twice", generations=5, workers=1, clients=3, worker=_WORKER)
    )
    assert "I3" in {finding.invariant for finding in report.findings}
