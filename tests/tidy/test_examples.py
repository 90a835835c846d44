"""The examples of the documentation are valid: its commands, and the settings of configure.md."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Final

import pytest

from deploy.cli import app
from shared.settings import Settings
from tests.tidy import source

_BLOCK: Final = re.compile(r"^```(sh|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Up to a comment, the next command, a pipe or a redirection.
_COMMAND: Final = re.compile(r"^(?:uv run )?pollux ([^#|&>\n]+)", re.MULTILINE)


def _blocks(path: str, language: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(source.texts()[path]) if name == language]


def _commands() -> list[str]:
    return [
        command.strip()
        for path in source.documents()
        for block in _blocks(path, "sh")
        for command in _COMMAND.findall(block)
    ]


@pytest.mark.parametrize("command", dict.fromkeys(_commands()))
def test_a_command_can_be_called_as_it_is_written(command: str) -> None:
    app.parse_args(shlex.split(command), exit_on_error=False, print_error=False)


def test_the_settings_are_valid_together(tmp_path: Path) -> None:
    examples = "\n".join(_blocks("deploy/docs/configure.md", "toml"))
    (tmp_path / "pollux.toml").write_text(examples, encoding="utf-8")
    shutil.copy(source.ROOT / "deploy/catalog.toml", tmp_path)
    settings = Settings.read({}, folder=tmp_path)
    assert settings.enhancement.model == "gpt-5-mini"
    assert [companion.type for companion in settings.companions] == ["librarian"]
