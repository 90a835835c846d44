"""The fixtures of the command line: a folder, the command, a supervisor to kill, an API to ask."""

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
import structlog

from deploy import cli
from shared.telemetry import logs
from tests.deploy.scripted_api import ScriptedApi
from tests.support import process_tree, waiting


class Result(NamedTuple):
    """What a command has said and how it ended."""

    code: object
    out: str
    err: str


Pollux = Callable[..., Result]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return an empty folder whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="plx"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pollux(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Pollux:
    """Return the `pollux` command, in an empty folder, with no setting but those given.

    It runs in this process, for speed; those that run until they are told to stop do not.
    """

    def run(*words: str, **environment: str) -> Result:
        monkeypatch.chdir(short_folder)
        monkeypatch.setattr(sys, "argv", ["pollux", *words])
        monkeypatch.setattr(os, "environ", clean(environment))
        with _own_logging(), pytest.raises(SystemExit) as ended:
            _call(cli.main)
        return Result(ended.value.code, *capsys.readouterr())

    return run


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep what a program configures for itself from the tests that come later in this process."""
    config, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        structlog.configure(**config)
        logs.logger.cache_clear()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def _call(main: Callable[[], NoReturn]) -> None:
    """Call what runs a loop of its own: in another thread if the test's loop runs in this one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        main()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(main).result()


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return this process' environment without any setting of Pollux, and then what is given."""
    kept = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251  a shell's, but for us
        if name != "REDIS_URL" and not name.startswith("POLLUX_")
    }
    return kept | dict(environment)


def folders_in(parent: Path) -> list[Path]:
    """Return the private folders of supervisors."""
    return list(parent.glob("pollux-*"))


class SupervisorProcess:
    """A running supervisor with three idle children and a janitor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.deploy.supervisor_program", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.children: dict[str, int] = json.loads(self.process.stdout.readline())

    @property
    def janitor(self) -> int:
        """The process id of the janitor that is on duty."""
        [pid] = [
            found.pid
            for found in process_tree.members(self.process.pid)
            if "deploy.local.janitor" in found.command
        ]
        return pid

    def left(self) -> list[int]:
        """Return what is still alive of all that was ever started."""
        return [pid for pid in self.children.values() if process_tree.is_alive(pid)]

    def folders(self) -> list[Path]:
        """Return the private folders that are left."""
        return folders_in(self.folder)

    def wait_until_gone(self) -> None:
        """Wait until neither a child nor the folder of the sockets is left."""
        waiting.until_now(lambda: not self.left() and not self.folders(), what="nothing left")


@pytest.fixture
def supervisor_process(short_folder: Path) -> Iterator[SupervisorProcess]:
    """Return a running supervisor of stand-ins; what it leaves is killed at the end."""
    started = SupervisorProcess(short_folder)
    yield started
    with started.process:
        started.process.kill()
    for pid in started.left():
        os.kill(pid, 9)


@pytest.fixture
async def scripted_api() -> AsyncIterator[ScriptedApi]:
    """Return a scripted API."""
    async with ScriptedApi() as scripted:
        yield scripted
