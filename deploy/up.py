"""`pollux up`: runs the whole system for development, with its state in a folder.

Owns what is printed for the developer: URL, API key and requests to paste.
"""

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
    """Run the whole system here until Ctrl-C, and print its URL, an API key and a first request.

    It starts a Valkey server unless REDIS_URL names one, and a small local model unless the
    settings name models. Next to the local model it serves each model of the shipped catalogue
    whose provider's key is in the environment. SIGHUP reloads the catalogue.

    Args:
        host: Address that the API listens on.
        port: Port that the API listens on.
        folder: State folder: data, logs and the API key, kept across restarts.
        workers: Number of worker processes.

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
    await shutdown.run_until_stopped(
        _run_until_cancelled(plan, progress, clock, sighup_received),
        clock,
        reload=sighup_received.set,
    )
    progress.line("Pollux has stopped.")


async def _run_until_cancelled(
    plan: Plan, progress: Progress, clock: SystemClock, sighup_received: asyncio.Event
) -> None:
    # Checked first: a taken port, perhaps by another `up`, is the most likely error.
    network.free_port(plan.host, plan.port)
    progress.line(f"Pollux is starting; its state folder is {plan.folder}")
    async with system.running(plan, progress, clock) as running:
        for line in _welcome(running, plan.folder):
            progress.line(line)
        try:
            while await sighup_received.wait():
                sighup_received.clear()
                _reload(running, progress)
        finally:
            progress.line(
                "\nPollux is stopping: running work is finished or requeued "
                "(press Ctrl-C again to stop at once)."
            )


def _reload(running: Running, progress: Progress) -> None:
    try:
        running.reload()
        progress.line("The catalogue is reloaded.")
    except ConfigurationError as error:
        progress.line("The catalogue is not reloaded, because the settings have faults:")
        for fault in error.faults:
            progress.line(f"  {fault}")


def _welcome(running: Running, folder: Path | None) -> list[str]:
    """Return the lines that show how to use the running system."""
    option = "" if folder == FOLDER.absolute() else f" --folder {shlex.quote(str(folder))}"
    key = shlex.quote(f"X-API-Key: {running.api_key}")
    json = shlex.quote("Content-Type: application/json")
    body = shlex.quote('{"message": "What is a job queue?"}')
    poll_url = """sed 's/.*"poll_url": *"\\([^"]*\\)".*/\\1/'"""
    return [
        "",
        f"Pollux is up at {running.url} (Ctrl-C stops it).",
        f"API key: {running.api_key}",
        "",
        "Ask a question:" if option else "Ask a question, from this folder:",
        "",
        f"  pollux ask{option} What is a job queue?",
        "",
        "or over HTTP: post a message, then poll the poll_url of the reply:",
        "",
        f"  POLL_URL=$(curl -s {running.url}/api/v1/chat -H {key} -H {json} \\",
        f"    -d {body} | {poll_url})",
        f'  curl -s "{running.url}$POLL_URL?wait=30" -H {key}',
        "",
        f"The API is described at {running.url}/openapi.json",
        "",
    ]
