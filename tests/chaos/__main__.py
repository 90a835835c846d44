"""`python -m tests.chaos --kills 1000 --seed 1`: one run, one table, exit code 1 if anything broke.

Every option is a field of the plan. Without `--generations` there are 15 for each fault, and 120
for each hang and outage of Redis.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec
import uvloop

from tests.chaos import fault_run, planted_faults
from tests.chaos.fault_run import REDIS_FAULTS, WORKER_FAULTS, Kind, Plan, Report
from tests.chaos.scene import APPENDFSYNC
from tests.support import command_line

# Generations for each fault; hangs and outages of Redis last longer than the others.
_PER_FAULT: dict[Kind, int] = {"hang": 120, "outage": 120}
_PER_OTHER_FAULT = 15
_GENERATIONS_MIN = 150
_SHOWN_MAX = 40


def main() -> int:
    """Read the options, run, print."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(fault_run.run(_plan()))
    for name, value in _rows(report):
        sys.stdout.write(f"{name:34} {value}\n")
    for finding in report.findings[:_SHOWN_MAX]:
        sys.stdout.write(f"{finding}\n")
    for record in report.unfinished:
        sys.stdout.write(f"not ended: {record}\n")
    broken = (
        report.findings,
        report.unfinished,
        report.consumed_attempts,
        report.exits,
        report.slow_answers,
    )
    return (
        1 if any((*broken, report.lost_writes, report.failed_ready, report.needless_calls)) else 0
    )


def _plan() -> Plan:
    parser = command_line.parser("tests.chaos", __doc__)
    faults = ("kills", "stops", "deploys", "crashes", "hangs", "outages")
    for name in (*faults, "generations", "clients"):
        parser.add_argument(f"--{name}", type=int, help=f"number of {name}")
    parser.add_argument("--durability", choices=sorted(APPENDFSYNC), help="of Redis")
    parser.add_argument("--workers", type=int, default=6, help="number of workers")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--per-second", type=float, help="faults a second at most")
    parser.add_argument(
        "--fault",
        choices=sorted(planted_faults.FAULTS),
        metavar="NAME",
        help="plant a fault of `tests.chaos.planted_faults` in the workers",
    )
    options = {
        name: value for name, value in vars(parser.parse_args()).items() if value is not None
    }
    plan = msgspec.convert(options, Plan)
    if "generations" in options:
        return plan
    wanted = sum(_PER_FAULT.get(kind, _PER_OTHER_FAULT) for kind in plan.faults())
    return msgspec.structs.replace(plan, generations=max(_GENERATIONS_MIN, wanted))


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    broken = Counter(finding.invariant for finding in report.findings)
    yield "seed, seconds", f"{report.plan.seed}, {report.seconds:.0f}"
    yield "generations", f"{report.sent:,} ({report.sent / report.seconds:.0f} a second)"
    yield "ended", ", ".join(f"{count:,} {stage}" for stage, count in sorted(report.stages.items()))
    yield "kills, stops, deploys", ", ".join(str(report.injected[kind]) for kind in WORKER_FAULTS)
    yield (
        "Redis crashes, hangs, outages",
        ", ".join(str(report.injected[one]) for one in REDIS_FAULTS),
    )
    if report.back_ms:
        yield "first accept p50 / p99 / max", " / ".join(_quantiles(report.back_ms))
    yield "acknowledged writes lost", f"{report.lost_writes} ({report.plan.durability})"
    yield "lost (I1)", str(broken["I1"])
    yield "doubled (I2, I4)", str(broken["I2"] + broken["I4"])
    yield "credit drift (I3)", str(broken["I3"])
    yield "stale writes visible (I7)", str(broken["I7"])
    rest = [f"{name} {broken[name]}" for name in ("I5", "I6", "I8", "I9", "I10")]
    yield "other findings", ", ".join(rest)
    yield "recoveries", f"{len(report.recovered_ms):,} measured, {report.overtaken} overtaken"
    yield "recovery p50 / p99 / max", " / ".join(_quantiles(report.recovered_ms))
    yield "last attempt p50 / p99 / max", " / ".join(_quantiles(report.took_ms))
    yield "answers that took too long", str(report.slow_answers)
    wasted = f"{report.wasted:,} wasted ({report.calls:,} upstream calls)"
    yield "attempts", f"{report.attempts:,}, {wasted}"
    called = f"{report.unexplained_calls} with an upstream call"
    yield "attempts without a cause", f"{report.unexplained_attempts}, {called}"
    yield "failed", str(report.stages.get("failed", 0))
    yield "attempts consumed by deploys", str(report.consumed_attempts)
    yield "unexpected exit codes", str(report.exits)
    yield "workers that did not start", str(report.failed_starts)
    yield "logged by workers", ", ".join(f"{n} {event}" for event, n in report.logged.items())


def _quantiles(sorted_ms: Sequence[int]) -> list[str]:
    if not sorted_ms:
        return ["-"]
    last = len(sorted_ms) - 1
    return [f"{sorted_ms[round(last * share)]:,} ms" for share in (0.5, 0.99, 1.0)]


if __name__ == "__main__":
    sys.exit(main())
