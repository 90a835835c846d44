"""The docstring of every package is a map: one line for each of its modules, and for nothing else.

A line of a map is the name of a module, package or file of the folder, two blanks or more, and what
it does:

    claims   Claims work from every partition

Tests and `conftest` may be left out; their names say what they are.
"""

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from tests.tidy import source

_LINE: Final = re.compile(r"^([a-z_][\w.-]*)/?[ ]{2,}\S", re.MULTILINE)


def _packages() -> list[str]:
    return [path.rpartition("/")[0] for path in source.texts() if path.endswith("/__init__.py")]


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name not in {"__pycache__", "__init__.py"}]


def _needed(folder: Path) -> set[str]:
    """Return the names of the modules and subpackages that a map has to list."""
    return {
        entry.stem
        for entry in _entries(folder)
        if (entry.suffix == ".py" and not entry.name.startswith(("test_", "conftest")))
        or (entry / "__init__.py").exists()
    }


def _faults(package: str) -> list[str]:
    folder = source.ROOT / package
    text = ast.get_docstring(source.modules()[f"{package}/__init__.py"]) or ""
    listed = _LINE.findall(text)
    known = {name for entry in _entries(folder) for name in (entry.stem, entry.name)}
    return [
        *(f"no line for {name}" for name in sorted(_needed(folder) - set(listed))),
        *(f"{name} is not there" for name in listed if name not in known),
        *(f"{name} is listed twice" for name in sorted(set(listed)) if listed.count(name) > 1),
    ]


@pytest.mark.parametrize("package", _packages())
def test_a_package_lists_its_modules(package: str) -> None:
    assert not _faults(package)
