"""The command itself: its help, its version, its completion, and no models to answer by."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from deploy.cli import app
from tests.deploy.conftest import Pollux

_COMMANDS = ("api", "ask", "config", "demo", "keys", "models", "up", "worker")


def test_help_describes_every_command(pollux: Pollux) -> None:
    said = pollux("--help").out
    for name in app:
        if not name.startswith("-"):
            assert re.search(rf"│ {name} +[A-Z]\w+", said), name


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_a_command_has_examples(pollux: Pollux, name: str) -> None:
    said = pollux(name, "--help").out
    assert f"pollux {name}" in said.partition("Examples:")[2]


def test_help_of_a_command_is_its_whole_description(pollux: Pollux) -> None:
    said = " ".join(pollux("up", "--help").out.split())
    assert "SIGHUP reloads the catalogue" in said


def test_version(pollux: Pollux) -> None:
    assert pollux("--version").out == f"pollux {version('pollux')}\n"


def test_completion_is_a_script_that_bash_reads(pollux: Pollux, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(pollux("completion", "bash").out)
    assert "set-tier" in script.read_text()
    subprocess.run(["/bin/bash", "-n", script], check=True)


def test_settings_without_a_model_are_warned_of(pollux: Pollux) -> None:
    said = pollux("config", "check")
    assert said.code == 0
    assert "no model is configured" in said.err
    assert "pollux config shipped" in said.err
