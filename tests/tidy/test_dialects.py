"""A dialect is one folder and a name in `app.py`: nothing else of the product names one."""

import re
from typing import Final

from tests.tidy import source

_FOLDER: Final = "api/dialects/"
_APP: Final = "api/app.py"
# What names each dialect in app.py: its import, and its place among the others.
_LINES: Final = re.compile(r"from api\.dialects\.\w+\.dialect import [A-Z]+|DIALECTS: Final = .*")


def _names() -> set[str]:
    paths = source.modules("api")
    return {path.split("/")[2] for path in paths if path.count("/") > 2 and _is_inside(path)}


def _is_inside(path: str) -> bool:
    return path.startswith(_FOLDER)


def test_only_its_folder_and_the_list_of_dialects_name_a_dialect() -> None:
    names = _names()
    assert names == {"kolbo", "kombify"}
    named = re.compile("|".join(names), re.IGNORECASE)
    found = [
        f"{path}: {line}"
        for path, text in source.texts().items()
        if path.startswith(("api/", "shared/", "worker/")) and path.endswith((".py", ".lua"))
        if not _is_inside(path)
        for line in text.splitlines()
        if named.search(line) and not (path == _APP and _LINES.fullmatch(line))
    ]
    assert found == []


def test_the_list_names_each_dialect_once() -> None:
    lines = [line for line in source.texts()[_APP].splitlines() if _LINES.fullmatch(line)]
    assert len(lines) == len(_names()) + 1
    for name in _names():
        assert re.search(rf"DIALECTS: Final = .*\b{name.upper()}\b", lines[-1])
