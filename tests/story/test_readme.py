"""The tutorial: the programs of the README's first request, run as they are printed there."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.system import System

_README: Final = Path(__file__).parents[2] / "README.md"
_SECTION: Final = re.compile(r"^## A first request$(.*?)^## ", re.MULTILINE | re.DOTALL)
_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# By the language of a block: what must be installed, and the command that reads it from a file.
_COMMANDS: Final = {
    "sh": ("curl", ["sh"]),
    "python": (sys.executable, [sys.executable]),
    "js": ("node", ["node"]),
}


def _programs() -> dict[str, str]:
    section = _SECTION.search(_README.read_text(encoding="utf-8"))
    assert section is not None
    return dict(_BLOCK.findall(section[1]))


def _runnable() -> list[str]:
    return [language for language, (needed, _) in _COMMANDS.items() if shutil.which(needed)]


def test_the_readme_has_a_program_in_each_language() -> None:
    """I find the first request in my language."""
    assert set(_programs()) == set(_COMMANDS)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("language", _runnable())
async def test_a_program_of_the_readme_prints_the_answer(
    language: str, system: System, tmp_path: Path
) -> None:
    """I paste a program from the README, set the two variables, and see the answer."""
    program = tmp_path / ("program.mjs" if language == "js" else "program")
    program.write_text(_programs()[language], encoding="utf-8")
    environment = {
        **os.environ,  # noqa: TID251  a customer's shell
        "POLLUX_URL": await system.front(),
        "POLLUX_API_KEY": (await system.key()).key,
        "NO_PROXY": "*",
    }
    process = await asyncio.create_subprocess_exec(
        *_COMMANDS[language][1],
        str(program),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, err.decode()) == (0, "")
    assert "You said: What is a job queue?" in out.decode()
