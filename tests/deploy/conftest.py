"""Fixtures of the command line: folder, command, settings, supervisor process, scripted API."""

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
from typing import Any, Final, NamedTuple, NoReturn

import pytest
import structlog

from deploy import cli
from shared.clock import SystemClock
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts
from shared.telemetry import logs
from tests.deploy.scripted_api import ScriptedApi
from tests.support import process_tree, waiting
from tests.support.scripted_batches import ScriptedBatches
from tests.support.system import system

__all__ = ["system"]

PEPPER: Final = b"of these tests"
_SETTINGS: Final = """
[catalogue]
path = "catalog.toml"

[[providers]]
name = "near"
base_url = "{url}/near"

[[models]]
identifier = "small"
provider = "near"
upstream = "small-1"
context_window = 4096
"""
_CATALOGUE: Final = """
[[providers]]
name = "far"
base_url = "{url}/far/"
dialect = "anthropic"
api_key_env = "FAR_KEY"

[[providers]]
name = "wide"
base_url = "{url}/wide"
dialect = "gemini"
api_key_env = "WIDE_KEY"

[[models]]
identifier = "big"
provider = "far"
upstream = "big-1"
name = "Big One"
context_window = 200_000
input_rate = 1.25
output_rate = 10.0
rates_date = 2026-11-22
capabilities = ["tools", "json"]
"""


class Result(NamedTuple):
    """Exit code and output of a command."""

    code: object
    out: str
    err: str


Pollux = Callable[..., Result]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return an empty folder whose path is short enough for a unix socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="plx"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pollux(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Pollux:
    """Return a function that runs `pollux` in an empty folder, with only the settings given.

    It runs in this process, for speed. Commands that run until a signal need their own process.
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
    """Restore the logging configuration that a command changes, for later tests in this process."""
    config, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    try:
        yield
    finally:
        structlog.configure(**config)
        logs.logger.cache_clear()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def _call(main: Callable[[], NoReturn]) -> None:
    """Call a function that runs an event loop: in another thread if this one has a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        main()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(main).result()


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return this process' environment without settings of Pollux, plus the given variables."""
    kept = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251  a command's environment is the test's
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
        """The process id of the janitor."""
        [pid] = [
            found.pid
            for found in process_tree.members(self.process.pid)
            if "deploy.local.janitor" in found.command
        ]
        return pid

    def alive_children(self) -> list[int]:
        """Return the process ids of all children that are alive."""
        return [pid for pid in self.children.values() if process_tree.is_alive(pid)]

    def folders(self) -> list[Path]:
        """Return the private folders that exist."""
        return folders_in(self.folder)

    def wait_until_gone(self) -> None:
        """Wait until no child is alive and no private folder exists."""
        waiting.until_now(
            lambda: not self.alive_children() and not self.folders(), what="nothing left"
        )


@pytest.fixture
def supervisor_process(short_folder: Path) -> Iterator[SupervisorProcess]:
    """Return a running supervisor; children that it leaves are killed at the end."""
    started = SupervisorProcess(short_folder)
    yield started
    with started.process:
        started.process.kill()
    for pid in started.alive_children():
        os.kill(pid, 9)


@pytest.fixture
async def scripted_api() -> AsyncIterator[ScriptedApi]:
    """Return a scripted API."""
    async with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture
def batches_api() -> Iterator[ScriptedBatches]:
    """Return a scripted API of batches."""
    with ScriptedBatches() as scripted:
        yield scripted


@pytest.fixture
def batch(pollux: Pollux, batches_api: ScriptedBatches) -> Pollux:
    """Return a function that runs `pollux batch` against the scripted API, in this process."""

    def run(*words: str) -> Result:
        return pollux("batch", *words, POLLUX_URL=batches_api.url, POLLUX_API_KEY="the-key")

    return run


@pytest.fixture
def redis_environment(redis_settings: RedisSettings) -> dict[str, str]:
    """Return the environment with which a command uses the test's Redis."""
    return {
        "REDIS_URL": redis_settings.url,
        "POLLUX_REDIS__PREFIX": redis_settings.prefix,
        "POLLUX_REDIS__PARTITIONS": str(redis_settings.partitions),
        "POLLUX_PEPPER": PEPPER.decode(),
    }


@pytest.fixture
def accounts(redis: Redis, redis_settings: RedisSettings) -> Accounts:
    """Return the accounts in the test's Redis."""
    return Accounts(redis, redis_settings, PEPPER, SystemClock())


def create_key(pollux: Pollux, redis_environment: dict[str, str], *words: str) -> dict[str, Any]:
    """Create a key by `pollux keys create --json`; return what it prints."""
    result = pollux("keys", "create", "--json", *words, **redis_environment)
    assert result.code == 0, result.err
    created: dict[str, Any] = json.loads(result.out)
    return created


@pytest.fixture
def catalogue_environment(tmp_path: Path, scripted_api: ScriptedApi) -> dict[str, str]:
    """Write a settings file and a catalogue next to it; return the variable that names the file."""
    (tmp_path / "pollux.toml").write_text(_SETTINGS.replace("{url}", scripted_api.url))
    (tmp_path / "catalog.toml").write_text(_CATALOGUE.replace("{url}", scripted_api.url))
    return {"POLLUX_CONFIG": str(tmp_path / "pollux.toml")}
