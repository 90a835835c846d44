"""A worker process with two tools that a test directs by files in a folder, its argument.

Each run of a tool adds a line to `NAME.runs`. Then it waits as long as there is a file `NAME.hold`,
and asks for a decision as long as there is `NAME.ask`.
"""

import asyncio
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, Final

import uvloop

from shared.clock import SystemClock
from shared.settings import Settings
from shared.telemetry import logs
from shared.wire.conversation import TextPart, ToolDefinition
from shared.wire.event import ApprovalRequired
from worker.consumer.arq_worker import PolluxWorker
from worker.tools.contract import Suspend, ToolContext, ToolOutput
from worker.tools.registry import ToolRegistry

_CLOCK: Final = SystemClock()
_WAIT_MS: Final = 86_400_000
_LOOK_SECONDS: Final = 0.005


class DirectedTool:
    """A tool that a test directs by files."""

    timeout_seconds = 60.0

    def __init__(self, folder: Path, name: str, *, is_repeatable: bool) -> None:
        self.definition = ToolDefinition(name=name)
        self.is_repeatable = is_repeatable
        self._file = folder / name

    async def run(self, _: dict[str, Any], context: ToolContext) -> ToolOutput | Suspend:
        """Run as directed."""
        with self._file.with_suffix(".runs").open("a") as runs:
            runs.write(f"{context.generation} {context.attempt}\n")
        while self._file.with_suffix(".hold").exists():
            await _CLOCK.sleep(_LOOK_SECONDS)
        if self._file.with_suffix(".ask").exists():
            event = ApprovalRequired(context.call_id, self.definition.name, {}, "")
            return Suspend(until_ms=_CLOCK.now_ms() + _WAIT_MS, event=event)
        return ToolOutput(parts=(TextPart(f"{self.definition.name} done"),), summary="Done.")


async def _run(settings: Settings, folder: Path) -> None:
    worker = PolluxWorker(settings, os.environ, _CLOCK)
    tools = ToolRegistry(
        [
            DirectedTool(folder, "weather", is_repeatable=True),
            DirectedTool(folder, "order", is_repeatable=False),
        ]
    )
    worker._dependencies = dataclasses.replace(worker._dependencies, tools=tools)
    try:
        await worker.async_run()
    finally:
        await worker.close()


def main() -> None:
    """Run the worker until SIGTERM."""
    logs.begin()
    settings = Settings.read(os.environ)
    logs.configure(settings.log, process="worker")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
