"""Starts what is compared in a bench of the queue, our engine and its peers, as processes.

Owns how they are started and the lines exchanged with them; their output is lines of numbers. Each
peer runs in an environment that uv makes of the first lines of its file, so the package index must
be reachable the first time. A program ends with its standard input, so none outlives the bench.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
_GIVE_UP_SECONDS: Final = 120.0
_END_SECONDS: Final = 5.0


class Contestant(NamedTuple):
    """One of the compared engines: the command that starts it, up to its role."""

    name: str
    words: tuple[str, ...]
    url: str = ""
    environment: Mapping[str, str] | None = None


class Program:
    """A running process of a contestant."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def write_line(self, word: str = "") -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def read_word(self) -> str:
        """Return the next line of its output."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            return (await self._process.stdout.readline()).decode().strip()

    async def read_line(self, patience_seconds: float | None = _GIVE_UP_SECONDS) -> list[float]:
        """Return the numbers of the next line of its output."""
        assert self._process.stdout is not None
        async with asyncio.timeout(patience_seconds):
            line = await self._process.stdout.readline()
        assert line, f"ended early: {await self._process.wait()}"
        return [float(word) for word in line.split()]

    async def ended(self) -> None:
        """Wait until it exits with 0."""
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            code = await self._process.wait()
        assert code == 0, f"ended with {code}"


@asynccontextmanager
async def running(contestant: Contestant, *words: str) -> AsyncIterator[Program]:
    """Start a process of a contestant, and end it with the block."""
    with_url = (*words, "--redis", contestant.url) if contestant.url else words
    process = await asyncio.create_subprocess_exec(
        *contestant.words,
        *with_url,
        cwd=ROOT,
        env=contestant.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ours logs a line for each generation, a peer only errors.
        stderr=None if contestant.url else subprocess.DEVNULL,
    )
    try:
        yield Program(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def ours(environment: Mapping[str, str]) -> Contestant:
    """Return our engine, which reads the Redis URL from its environment."""
    return Contestant("ours", (sys.executable, "-m", "tests.bench.noop_worker"), "", environment)


def peer(name: str, module: str, url: str) -> Contestant:
    """Return a peer; its Python environment is created if it is missing."""
    return Contestant(name, (_python(module), "-m", f"tests.bench.peers.{module}"), url)


@cache
def _python(module: str) -> str:
    script = str(ROOT / "tests" / "bench" / "peers" / f"{module}.py")
    inherited = {name: word for name, word in _inherited().items() if name != "VIRTUAL_ENV"}
    subprocess.run(["uv", "sync", "--quiet", "--script", script], check=True, env=inherited)
    find = ["uv", "python", "find", "--script", script]
    found = subprocess.run(find, check=True, env=inherited, stdout=subprocess.PIPE)
    return found.stdout.decode().strip()


def _inherited() -> dict[str, str]:
    return dict(os.environ)  # noqa: TID251  uv needs the environment of its user
