"""`pollux up`: the whole system, kept running for development, its data kept in a folder."""

import asyncio
import os
import shlex
import sys
from pathlib import Path

from deploy.local import network, shutdown, system
from deploy.local.progress import Progress
from deploy.local.supervisor import StartError
from deploy.local.system import Plan, Running
from deploy.options import FOLDER, HOST, PORT, Count, Port
from shared.clock import SystemClock
from shared.errors import ConfigurationError, UnavailableError


def up(*, host: str = HOST, port: Port = PORT, folder: Path = FOLDER, workers: Count = 2) -> int:
    """Run the whole system here until Ctrl-C, and print its URL, a key and a request to paste.

    A Valkey and a small local model are started with it, unless REDIS_URL names a Redis and the
    settings name models. Beside the local model, those that come with Pollux are served whose
    provider's key is in the environment. SIGHUP makes it read the catalogue anew.

    Args:
        host: Address that the API listens on.
        port: Port that the API listens on.
        folder: Where the data, the logs and the key are kept across restarts.
        workers: How many worker processes to run.

    """
    plan = Plan(
        environment=dict(os.environ),
        host=host,
        port=port,
        workers=workers,
        folder=folder.absolute(),
    )
    clock = SystemClock()
    try:
        asyncio.run(_until_stopped(plan, clock))
    except StartError as error:
        raise UnavailableError(f"{error.message} (log: {error.log})") from None
    return 0


async def _until_stopped(plan: Plan, clock: SystemClock) -> None:
    progress = Progress(sys.stdout)
    sighup_received = asyncio.Event()
    await shutdown.run(
        _run_until_cancelled(plan, progress, clock, sighup_received),
        clock,
        reload=sighup_received.set,
    )
    progress.line("Pollux has ended.")


async def _run_until_cancelled(
    plan: Plan, progress: Progress, clock: SystemClock, sighup_received: asyncio.Event
) -> None:
    # Said before anything else: somebody, perhaps another `up`, is there already.
    network.free_port(plan.host, plan.port)
    progress.line(f"Pollux is starting; what it keeps is in {plan.folder}")
    async with system.running(plan, progress, clock) as running:
        for line in _welcome(running):
            progress.line(line)
        try:
            while await sighup_received.wait():
                sighup_received.clear()
                _reload(running, progress)
        finally:
            progress.line(
                "\nPollux is ending: what runs is finished or handed back (again to end at once)."
            )


def _reload(running: Running, progress: Progress) -> None:
    try:
        running.reload()
        progress.line("The catalogue is read anew.")
    except ConfigurationError as error:
        progress.line("The catalogue stays as it was:")
        for fault in error.faults:
            progress.line(f"  {fault}")


def _welcome(running: Running) -> list[str]:
    key = shlex.quote(f"X-API-Key: {running.api_key}")
    json = shlex.quote("Content-Type: application/json")
    body = shlex.quote('{"message": "What is a job queue?"}')
    poll_url = """sed 's/.*"poll_url": *"\\([^"]*\\)".*/\\1/'"""
    return [
        "",
        f"Pollux is up at {running.url} (Ctrl-C ends it).",
        f"API key: {running.api_key}",
        "",
        "Ask it something in this folder:",
        "",
        "  pollux ask What is a job queue?",
        "",
        "or over HTTP, by a message and a look at the poll_url of its receipt:",
        "",
        f"  POLL_URL=$(curl -s {running.url}/api/v1/chat -H {key} -H {json} \\",
        f"    -d {body} | {poll_url})",
        f'  curl -s "{running.url}$POLL_URL?wait=30" -H {key}',
        "",
        f"All that it can do is described at {running.url}/openapi.json",
        "",
    ]
