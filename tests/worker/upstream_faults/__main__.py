"""Runs every fault against the pipeline and prints a Markdown table; about two minutes.

Time is from the acceptance of a message to its end, in seconds; of a storm, until the last end.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from shared import ids
from shared.settings import RedisSettings
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System
from tests.worker.providers.upstream import Upstream
from tests.worker.upstream_faults import runner
from tests.worker.upstream_faults.faults import FAULTS, Fault
from tests.worker.upstream_faults.runner import Result

_HEAD = "| fault | with a second model | calls | s | by name | code | calls | s |"


async def _play(fault: Fault, server: Server, *, is_named: bool) -> Result:
    redis = RedisSettings(url=server.url, prefix=f"f{ids.new_id()[:8]}")
    with tempfile.TemporaryDirectory() as folder:
        async with (
            ScriptedProvider() as unused,
            Upstream() as upstream,
            System(redis, unused, Path(folder)) as system,
        ):
            return await runner.play(fault, system, upstream, is_named=is_named)


def _told(counts: dict[str, int]) -> str:
    if len(counts) == 1 and set(counts.values()) == {1}:
        return next(iter(counts))
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "-"


def _cells(auto: Result, named: Result) -> tuple[str, ...]:
    return (
        _told(auto.stages),
        str(auto.calls),
        f"{auto.seconds[-1]:.2f}",
        _told(named.stages),
        _told(named.codes),
        str(named.calls),
        f"{named.seconds[-1]:.2f}",
    )


async def _main() -> None:
    sys.stdout.write(f"{_HEAD}\n|{' --- |' * _HEAD.count(' |')}\n")
    with Server() as server:
        for fault in FAULTS:
            auto = await _play(fault, server, is_named=False)
            named = await _play(fault, server, is_named=True)
            sys.stdout.write(f"| {' | '.join((fault.name, *_cells(auto, named)))} |\n")
            sys.stdout.flush()
    sys.stdout.write(
        "\nCalls are those of the faulty model. It may be silent for 5 s, in the rows of silence "
        "and drips for 0.4 s.\nThe deadline is 14 s, of the drip of tokens 1.5 s; a breaker cools "
        f"for {runner.COOLING_SECONDS} s at first and {runner.COOLING_SECONDS_MAX} s at most.\n"
    )


if __name__ == "__main__":
    asyncio.run(_main())
