"""The conversation that every generated client has with a real front and worker, and its outcome.

Owns what is asked and what must come of it. Knows nothing of how a client is made: `Program` is the
command of a program that takes the front's URL, a key and messages, and prints the outcome as JSON.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from shared.settings import RedisSettings
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

MESSAGES: Final = ("What is light?", 'And 🚀 "sound"?')
_GIVE_UP_SECONDS: Final = 100.0
_ANSWERS: Final = [f"You said: {message}" for message in MESSAGES]
EXPECTED: Final[dict[str, Any]] = {
    "contents": _ANSWERS,
    "followed": _ANSWERS,
    "isReplayed": True,
    "answer": _ANSWERS[0],
    "code": "MODEL_NOT_FOUND",
}


class Program(NamedTuple):
    """A command, and its environment if it needs one."""

    command: Sequence[str | Path]
    environment: dict[str, str] | None = None


@asynccontextmanager
async def running_deployment(folder: Path) -> AsyncIterator[System]:
    """Yield a front and a worker on a server of their own; their files are in the folder."""
    with Server() as server:
        settings = RedisSettings(url=server.url)
        async with ScriptedProvider() as provider, System(settings, provider, folder) as system:
            await system.front()
            await system.worker()
            yield system


async def document(system: System) -> bytes:
    """Return the document that the front serves."""
    return (await (await system.caller({})).get("/openapi.json")).content


async def run_conversation(system: System, program: Program) -> dict[str, Any]:
    """Run a program against the front; return the outcome that it printed."""
    key = (await system.key()).key
    output = await run([*program.command, system.url, key, *MESSAGES], program.environment)
    printed: dict[str, Any] = json.loads(output)
    return printed


async def run(
    command: Sequence[str | Path],
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a command to its end and return its output; a failure is an AssertionError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _GIVE_UP_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    output = out.decode()
    assert process.returncode == 0, output + err.decode()
    return output
