"""Runs the `pollux` command as a process: its output line by line, its children, its exit code.

Owns a short temporary folder that is the command's TMPDIR, so that a test sees what the command
leaves behind. Processes that are left at the end are killed.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support import process_tree, waiting

_GIVE_UP_SECONDS: Final = 90.0


class Command:
    """A running command."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._seen: dict[int, str] = {}
        self.folder = folder
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        return "".join(self.lines)

    async def wait_for_line(self, words: str) -> str:
        """Wait until it prints a line with these words, and return the line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                self.lines.append(line)
                if words in line:
                    self.children()
                    return line
        raise AssertionError(f"it never printed {words!r}:\n{self.text}")

    def children(self) -> dict[str, int]:
        """Return the process ids of the children by the name of their module or program."""
        found = {
            _name(member.command): member.pid for member in process_tree.members(self._process.pid)
        }
        self._seen |= {pid: name for name, pid in found.items()}
        return found

    def kill(self, child: str) -> None:
        """Kill a child with SIGKILL."""
        os.kill(self.children()[child], signal.SIGKILL)

    def send(self, signum: int) -> None:
        """Send the command itself a signal."""
        self._process.send_signal(signum)

    async def wait_until_ended(self) -> int:
        """Read to the end and return the exit code."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            self.lines.append((await self._process.stdout.read()).decode())
            return await self._process.wait()

    def left(self) -> list[str]:
        """Return the names of children that still run and of temporary files that are left."""
        alive = [name for pid, name in self._seen.items() if process_tree.is_alive(pid)]
        return alive + [entry.name for entry in self.folder.iterdir()]

    async def wait_until_gone(self) -> None:
        """Wait until no child and no temporary file is left."""
        await waiting.until(lambda: not self.left(), what="nothing left")

    def end(self) -> None:
        """Kill whatever still runs."""
        for pid in (self._process.pid, *self._seen):
            if process_tree.is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def running(*words: str, cwd: Path, environment: Mapping[str, str]) -> AsyncIterator[Command]:
    """Run `pollux` with these arguments in a folder; leaving the context kills it."""
    folder = Path(tempfile.mkdtemp(prefix="plx"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "deploy.cli", *words),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    command = Command(process, folder)
    try:
        yield command
    finally:
        command.end()
        await process.wait()
        shutil.rmtree(folder)


def _name(command: str) -> str:
    """Return the module of a command line, or else its program."""
    words = command.split()
    return words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
