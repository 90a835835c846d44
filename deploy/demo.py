"""`pollux demo`: the whole system, started, talked to the published way, ended without a trace.

Owns the story that is told. It is told over HTTP alone, by the words of the published API, so it
holds for any Pollux.
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

_SIGNAL_EXIT: Final = 128
_TRIES_MAX: Final = 8
_MODELS: Final = "/api/v1/models?type=chat"
# A worker that was killed a moment ago comes back by then.
_MODEL_SECONDS: Final = 6.0
_PAUSE_SECONDS: Final = 2.0
_WORKERS: Final = 2
# Nobody waits for the answers of a demo that was told to stop.
_GRACE_SECONDS: Final = "1"
_FIRST_MESSAGE: Final = "In one sentence: what is a job queue?"
_FOLLOW_UP: Final = "Name one thing that it is good for."


def demo() -> int:
    """Start the whole system, send it a message and a follow-up, print both, end everything."""
    clock = SystemClock()
    plan = Plan(
        environment={"POLLUX_WORKER__GRACE_SECONDS": _GRACE_SECONDS, **os.environ}, workers=_WORKERS
    )
    try:
        signum = asyncio.run(shutdown.run(_run_demo(plan, clock), clock, stop_with_parent=True))
    except StartError as error:
        for line in error.last_lines:
            sys.stderr.write(f"  {line}\n")
        raise
    return 0 if signum is None else _SIGNAL_EXIT + signum


async def _run_demo(plan: Plan, clock: SystemClock) -> None:
    progress = Progress(sys.stdout)
    progress.line("Starting Pollux: a store, a model, an API and two workers.")
    async with (
        system.running(plan, progress, clock) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as http,
    ):
        progress.line(f"Pollux is up at {running.url}.\n")
        await _hold_conversation(DemoClient(http, running.api_key, progress.line, clock), progress)
        progress.line("Ending Pollux.")
    progress.line("Pollux has ended and left nothing behind.")


async def _hold_conversation(client: DemoClient, progress: Progress) -> None:
    progress.line("== 0. The models that can be asked.\n")
    await client.poll_until(_MODELS, _has_model, _MODEL_SECONDS)
    if not _has_model(await client.read(_MODELS)):
        raise UnavailableError("No worker can serve a model: is a provider's key missing?")
    progress.line("== 1. A message is submitted; the reply is a receipt with a poll_url.\n")
    first = await _ask_until_answered(client, progress, {"message": _FIRST_MESSAGE})
    progress.line(
        "== 2. A follow-up in the same session: the model is sent what was said before.\n"
    )
    await _ask_until_answered(
        client, progress, {"message": _FOLLOW_UP, "session_id": first["session_id"]}
    )
    progress.line("== 3. The conversation, as it is kept.\n")
    await client.read(f"/api/v1/chat/conversations/{first['session_id']}/messages")
    progress.line("== 4. What it cost.\n")
    await client.read("/api/v1/account/credits")


def _has_model(found: Json) -> bool:
    """Tell whether a worker serves a model."""
    return any(model["available"] for model in found["models"])


async def _ask_until_answered(
    client: DemoClient, progress: Progress, body: dict[str, Any]
) -> dict[str, Any]:
    """Submit a message and poll until it is answered; a failure worth another try gets one."""
    for _ in range(_TRIES_MAX):
        receipt = await client.post("/api/v1/chat", body)
        status = await _poll_until_ended(client, receipt)
        if status["state"] == "completed":
            progress.line(f"   Asked:    {body['message']}")
            progress.line(f"   Answered: {status['result']['content']}\n")
            return receipt
        progress.line(f"The message failed ({status['error']}); it is sent again soon.\n")
        await client.pause(_PAUSE_SECONDS)
    raise UnavailableError("The message was not answered.")


async def _poll_until_ended(client: DemoClient, receipt: dict[str, Any]) -> dict[str, Any]:
    """Poll as the receipt and each status hint, until the state is an end state."""
    hint = receipt["poll_interval_hint"]
    while True:
        await client.pause(hint)
        status = await client.read(receipt["poll_url"])
        if status["state"] != "processing":
            return status
        hint = status["poll_interval_hint"]
