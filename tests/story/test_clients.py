"""The tutorial: programs written for the published API, unchanged but for base and key."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.scripted_provider import ScriptedProvider
from tests.support.system import System

pytestmark = pytest.mark.usefixtures("worker")

_FOLDER: Final = Path(__file__).parent / "clients"


def clients() -> dict[str, list[str]]:
    """Return the command of every client that this machine can run."""
    found = {"python": [sys.executable, str(_FOLDER / "chat.py")]}
    node = shutil.which("node")
    if node is not None:
        found["javascript"] = [node, str(_FOLDER / "chat.mjs")]
    return found


async def _run(command: list[str], *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 15)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("command", clients().values(), ids=clients().keys())
async def test_a_program_for_the_published_api_runs_as_it_stands(
    command: list[str], system: System, provider: ScriptedProvider
) -> None:
    """My program joins its base, which ends in /api, and the links it is given; it just works."""
    base = await system.front() + "/api"
    key = (await system.key()).key
    code, out, err = await _run(command, base, key, "What is light?", 'And 🚀 "sound"?')
    assert (code, err) == (0, "")
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["state"], second["state"]) == ("completed", "completed")
    assert first["content"] == "You said: What is light?"
    assert second["content"] == 'You said: And 🚀 "sound"?'
    assert first["session"] == second["session"]
    assert first["polled"].startswith(base + "/api/v1/generate/")
    assert len(provider.requests[-1].messages) == 3


@pytest.mark.parametrize("command", clients().values(), ids=clients().keys())
async def test_a_program_with_a_wrong_key_reads_a_sentence(
    command: list[str], system: System
) -> None:
    """I mistype my key; my program shows me a sentence that I understand."""
    base = await system.front() + "/api"
    code, out, err = await _run(command, base, "pollux_live_mistyped", "hello")
    assert code != 0
    assert out == ""
    assert "The API key is unknown." in err
