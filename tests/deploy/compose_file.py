"""Reads deploy/compose.yaml as docker compose does: variables replaced, anchors merged.

Owns the few rules of interpolation that the file uses. Refuses any other rule.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
_VARIABLE: Final = re.compile(r"\$\{([A-Z_]+)(?:(:-|:\?)([^}]*))?\}|\$")


class MissingError(Exception):
    """A required variable is not set."""


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with its variables replaced. Raises MissingError."""

    def value(found: re.Match[str]) -> str:
        name, rule, word = found[1], found[2], found[3]
        assert name, f"a bare $ in {text!r}"
        if variables.get(name):
            return variables[name]
        if rule == ":-":
            return str(word)
        raise MissingError(name)

    return _VARIABLE.sub(value, text)


def composition(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the compose file with these variables. Raises MissingError."""
    read = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return cast("dict[str, Any]", _filled(read, variables))


def _filled(value: object, variables: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return interpolated(value, variables)
    if isinstance(value, dict):
        return {name: _filled(each, variables) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    return value
