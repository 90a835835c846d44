"""Injects every Redis failure into a running system and prints a Markdown table; three minutes.

`python -m tests.chaos.redis_failures`; `--only WORDS` runs the rows whose names contain the words,
and `--server redis` runs them on redis-server where it is installed. The exit code is 1 when
anything that must hold does not.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Final

import uvloop

from tests.chaos.redis_failures import verdict
from tests.chaos.redis_failures.deployment import running_scene
from tests.chaos.redis_failures.failures import REDIS_FAILURES, RedisFailure
from tests.chaos.redis_failures.runner import Result, play
from tests.support import command_line
from tests.support.redis_server import Kind, binaries

_MARGIN_SECONDS: Final = 1.0
_HEAD: Final = (
    "| failure | what clients saw | slowest | recovered, ready | lost | re-runs | logged |"
)


def main() -> int:
    """Read the options, run, print."""
    parser = command_line.parser("tests.chaos.redis_failures", __doc__)
    parser.add_argument("--only", default="", help="run only rows whose names contain this")
    parser.add_argument("--server", choices=sorted(binaries()), default="valkey", help="its kind")
    arguments = parser.parse_args()
    rows = [
        redis_failure
        for redis_failure in REDIS_FAILURES
        if arguments.only.lower() in redis_failure.name.lower()
    ]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_play_all(rows, arguments.server))


async def _play_all(rows: list[RedisFailure], kind: Kind) -> int:
    sys.stdout.write(f"{_HEAD}\n|{' --- |' * _HEAD.count(' |')}\n")
    found: list[str] = []
    for redis_failure in rows:
        async with running_scene(kind, is_behind_proxy=redis_failure.is_on_network) as deployment:
            result = await play(redis_failure, deployment)
            breaches_found = verdict.breaches(
                redis_failure,
                result,
                deployment.settings.redis,
                margin_seconds=_MARGIN_SECONDS,
            )
            found += [f"{redis_failure.name}: {breach}" for breach in breaches_found]
        sys.stdout.write(
            f"| {' | '.join((redis_failure.name, *_cells(redis_failure, result)))} |\n"
        )
        sys.stdout.flush()
    sys.stdout.write("".join(f"\nbroken: {breach}" for breach in found))
    sys.stdout.write("\n" if found else "\nEverything that must hold does.\n")
    return 1 if found else 0


def _cells(redis_failure: RedisFailure, result: Result) -> tuple[str, ...]:
    slowest = result.slowest
    return (
        "; ".join(
            f"{kind} {_describe_counts(statuses)}"
            for kind, statuses in sorted(result.saw().items())
        ),
        f"{slowest.seconds:.2f} s, {slowest.kind} {slowest.status}",
        f"{result.recovered_seconds:.2f} s, {result.ready_seconds:.2f} s",
        "all" if redis_failure.loses_all else f"{len(result.lost)} of {result.acknowledged}",
        str(result.reruns),
        f"{_describe_counts(result.logged)} ({result.busy:.0%} of a core)",
    )


def _describe_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "-"


if __name__ == "__main__":
    sys.exit(main())
