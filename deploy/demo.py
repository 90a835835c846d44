"""`pollux demo`: starts the whole system, holds a conversation over HTTP, stops and cleans up.

Owns the script of the conversation. It uses the published API only, so it would work with any
Pollux.
"""

import asyncio
import os
import sys
from typing import Any, Final

import httpx

from deploy.demo_client import DemoClient, Json
from deploy.local import shutdown, system
from deploy.local.progress import Progress
from deploy.local.supervisor import StartError
from deploy.local.system import Plan
from shared.clock import SystemClock
from shared.errors import UnavailableError

_ATTEMPTS_MAX: Final = 8
_MODELS: Final = "/api/v1/models?type=chat"
# The supervisor restarts a killed worker within this time.
_MODEL_SECONDS: Final = 6.0
_PAUSE_SECONDS: Final = 2.0
_WORKERS: Final = 2
# A demo that is stopped does not need its running answers, so its workers stop at once.
_GRACE_SECONDS: Final = "1"
_FIRST_MESSAGE: Final = "In one sentence: what is a job queue?"
_FOLLOW_UP: Final = "Name one thing that it is good for."


def demo() -> int:
    """Start the whole system, send a message and a follow-up, print the answers, stop everything.

    Nothing is left behind: no process, no file, and no key in a Redis that REDIS_URL names.
    """
    clock = SystemClock()
    plan = Plan(
        environment={"POLLUX_WORKER__GRACE_SECONDS": _GRACE_SECONDS, **os.environ}, workers=_WORKERS
    )
    try:
        signum = asyncio.run(
            shutdown.run_until_stopped(_run_demo(plan, clock), clock, stop_with_parent=True)
        )
    except StartError as error:
        for line in error.last_lines:
            sys.stderr.write(f"  {line}\n")
        raise
    return shutdown.exit_code_of(signum)


async def _run_demo(plan: Plan, clock: SystemClock) -> None:
    progress = Progress(sys.stdout)
    progress.line("Starting Pollux: Redis, a model, the API and two workers.")
    async with (
        system.running(plan, progress, clock) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as http,
    ):
        progress.line(f"Pollux is up at {running.url}.\n")
        await _hold_conversation(DemoClient(http, running.api_key, progress.line, clock), progress)
        progress.line("Stopping Pollux.")
    progress.line("Pollux has stopped and left nothing behind.")


async def _hold_conversation(client: DemoClient, progress: Progress) -> None:
    progress.line("== 0. The available models.\n")
    await client.poll_until(_MODELS, _has_model, _MODEL_SECONDS)
    if not _has_model(await client.read(_MODELS)):
        raise UnavailableError("No worker can serve a model: is a provider's key missing?")
    progress.line("== 1. A message is posted; the reply is a receipt with a poll_url.\n")
    first = await _ask_until_answered(client, progress, {"message": _FIRST_MESSAGE})
    progress.line("== 2. A follow-up in the same session: the model gets the earlier messages.\n")
    await _ask_until_answered(
        client, progress, {"message": _FOLLOW_UP, "session_id": first["session_id"]}
    )
    progress.line("== 3. The conversation as it is stored.\n")
    await client.read(f"/api/v1/chat/conversations/{first['session_id']}/messages")
    progress.line("== 4. What it cost.\n")
    await client.read("/api/v1/account/credits")


def _has_model(listed: Json) -> bool:
    """Return whether a worker serves any model."""
    return any(model["available"] for model in listed["models"])


async def _ask_until_answered(
    client: DemoClient, progress: Progress, body: dict[str, Any]
) -> dict[str, Any]:
    """Post a message and poll until it is answered; post it again if the generation fails."""
    for _ in range(_ATTEMPTS_MAX):
        receipt = await client.post("/api/v1/chat", body)
        status = await _poll_until_ended(client, receipt)
        if status["state"] == "completed":
            progress.line(f"   Asked:    {body['message']}")
            progress.line(f"   Answered: {status['result']['content']}\n")
            return receipt
        progress.line(f"The generation failed ({status['error']}); the message is sent again.\n")
        await client.pause(_PAUSE_SECONDS)
    raise UnavailableError("The message was not answered.")


async def _poll_until_ended(client: DemoClient, receipt: dict[str, Any]) -> dict[str, Any]:
    """Poll until the state is final, each time after the pause that the last reply hints."""
    hint = receipt["poll_interval_hint"]
    while True:
        await client.pause(hint)
        status = await client.read(receipt["poll_url"])
        if status["state"] != "processing":
            return status
        hint = status["poll_interval_hint"]
