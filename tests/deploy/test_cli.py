"""The command itself: its help, version and completion, and the warning without models."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from deploy.cli import app
from tests.deploy.conftest import Pollux

_COMMANDS = ("api", "ask", "config", "demo", "keys", "models", "up", "worker")


def test_help_describes_every_command(pollux: Pollux) -> None:
    result = pollux("--help").out
    for name in app:
        if not name.startswith("-"):
            assert re.search(rf"│ {name} +[A-Z]\w+", result), name


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_a_command_has_examples(pollux: Pollux, name: str) -> None:
    result = pollux(name, "--help").out
    assert f"pollux {name}" in result.partition("Examples:")[2]


def test_help_of_a_command_has_its_whole_description(pollux: Pollux) -> None:
    result = " ".join(pollux("up", "--help").out.split())
    assert "SIGHUP reloads the catalogue" in result


def test_version(pollux: Pollux) -> None:
    assert pollux("--version").out == f"pollux {version('pollux')}\n"


def test_completion_is_a_valid_bash_script(pollux: Pollux, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(pollux("completion", "bash").out)
    assert "set-tier" in script.read_text()
    subprocess.run(["/bin/bash", "-n", script], check=True)


def test_settings_without_a_model_print_a_warning(pollux: Pollux) -> None:
    result = pollux("config", "check")
    assert result.code == 0
    assert "no model is configured" in result.err
    assert "pollux config shipped" in result.err
