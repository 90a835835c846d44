"""`python -m tests.soak --minutes 30`: a table, a picture, exit code 1 if anything broke or grew.

In the last fifth of the run a process may hold a tenth more than after its warm-up; so may Redis,
without the ledger, from which nothing is ever removed.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop

from tests.bench import figures
from tests.bench.figures import Figure
from tests.soak import gauges, soak_run, svg_chart
from tests.soak.soak_run import Plan, Report
from tests.support import command_line

_GROWTH_MAX: Final = 1.1
# Small counts vary by more than a tenth; they may move by this much.
_ALLOWED_MOVES: Final = {
    "descriptors": 12,
    "tasks not done": 12,
    "keys": 60,
    "objects, thousands": 2,
}
# Series without a bound: the ledger grows with every answer, a rate is not memory.
_UNBOUNDED: Final = frozenset({("Redis' memory, MiB", "all"), ("ended a second", "generations")})
_SHOWN_MAX: Final = 40


def main() -> int:
    """Read the options, run, print and draw."""
    parser = command_line.parser("tests.soak", __doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run")
    parser.add_argument("--clients", type=int, default=Plan().clients, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--picture", type=Path, default=Path("soak.svg"), help="its file")
    options = parser.parse_args()
    plan = Plan(seconds=options.minutes * 60, clients=options.clients, seed=options.seed)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(soak_run.run(plan))
    found = [*_counts(report), *_growths(report)]
    figures.print_line(figures.machine())
    figures.print_line(figures.table("soak", found))
    for finding in report.findings[:_SHOWN_MAX]:
        figures.print_line(finding)
    title = f"{report.seconds / 60:.0f} minutes, {sum(report.injected.values())} faults (grey)"
    drawn = svg_chart.draw(title, report.series, report.marks, report.seconds)
    options.picture.write_text(drawn)
    return 1 if report.findings or any(figure.is_met is False for figure in found) else 0


def _counts(report: Report) -> Iterator[Figure]:
    yield Figure("seconds, seed", f"{report.seconds:.0f}, {report.plan.seed}")
    for name, count in sorted(report.injected.items()):
        yield Figure(name, f"{count} times")
    for name, count in sorted(report.ended.items(), key=lambda each: -each[1]):
        yield Figure(f"generations {name}", f"{count:,}")
    for status, count in sorted(report.refused.items()):
        yield Figure(f"responses of {status}, repeated", f"{count:,}")
    yield Figure("findings", f"{len(report.findings)}", "", "0", not report.findings)


def _growths(report: Report) -> Iterator[Figure]:
    grown = gauges.every_growth(report.series, report.seconds)
    for (panel, name), (early, late) in grown.items():
        ratio = late / early if early else 1.0
        is_flat = ratio <= _GROWTH_MAX or late - early <= _ALLOWED_MOVES.get(panel, 0)
        is_bounded = (panel, name) not in _UNBOUNDED
        yield Figure(
            f"{panel}: {name}",
            f"{late:,.1f}",
            f"{early:,.1f} before",
            f"{_GROWTH_MAX:g} times" if is_bounded else "",
            is_flat if is_bounded else None,
        )


if __name__ == "__main__":
    sys.exit(main())
