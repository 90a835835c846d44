"""Starts one worker: reads the environment, builds the settings, runs `PolluxWorker`."""

import argparse
import asyncio
import os
import sys

import uvloop

from shared import garbage_collection
from shared.clock import SystemClock
from shared.errors import PolluxError
from shared.settings import Settings
from shared.telemetry import logs
from worker.consumer.arq_worker import PolluxWorker


async def _run(settings: Settings) -> None:
    worker = PolluxWorker(settings, os.environ, SystemClock())
    try:
        await worker.async_run()
    finally:
        await worker.close()


def main() -> int:
    """Run one worker until SIGTERM or SIGINT; return the process' exit code."""
    logs.begin()
    parser = argparse.ArgumentParser(prog="pollux worker", description="Run one Pollux worker.")
    parser.add_argument("--concurrency", help="generations at once")
    arguments = parser.parse_args()
    environment = dict(os.environ)
    if arguments.concurrency is not None:
        environment["POLLUX_WORKER__CONCURRENCY"] = arguments.concurrency
    try:
        settings = Settings.read(environment)
        logs.configure(settings.log, process="worker")
        garbage_collection.tune()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings))
    except PolluxError as error:
        sys.stderr.write(f"pollux worker: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
