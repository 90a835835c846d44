"""Renders the documentation's tables from the code; `python -m tests.tidy.tables` writes them.

Owns the rows of every table, and names the document in which it stands (`HOMES`). The document
marks the place with `<!-- table: NAME -->` and `<!-- end -->`; the sentences around it are its own.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from api.errors import STATUS
from shared.lifecycle import TRANSITIONS, state_of
from shared.redis.keys import FAMILIES
from shared.settings import Settings
from shared.settings_types import Section
from tests.tidy import source

HOMES: Final = {
    "stages": "shared/README.md",
    "keys": "shared/README.md",
    "settings": "deploy/docs/configure.md",
    "codes": "api/README.md",
}
TABLE: Final = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(text: str) -> str:
    """Return the text with every table rendered from the code."""
    return TABLE.sub(lambda found: _framed(found[1]), text)


def _framed(name: str) -> str:
    head, rows = TABLES[name]
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows())]
    return "\n".join((f"<!-- table: {name} -->", *lines, "<!-- end -->"))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _stages() -> Iterator[list[str]]:
    for stage, following in TRANSITIONS.items():
        after = ", ".join(f"`{name}`" for name in TRANSITIONS if name in following)
        yield [f"`{stage}`", f"`{state_of(stage)}`", after or "nothing"]


def _settings() -> Iterator[list[str]]:
    for section in msgspec.structs.fields(Settings):
        if isinstance(section.type, type) and issubclass(section.type, Section):
            yield from _section(section.name, section.type)


def _section(path: str, shape: type[Section]) -> Iterator[list[str]]:
    for field in msgspec.structs.fields(shape):
        if isinstance(field.default, Section):
            inner = ", ".join(f"{name} = {value}" for name, value in _values(field.default))
            yield [f"`{path}.{field.name}`", f"`{inner}`"]
        else:
            yield [f"`{path}.{field.name}`", f"`{field.default}`"]


def _values(section: Section) -> Iterator[tuple[str, object]]:
    for name in section.__struct_fields__:
        yield name, getattr(section, name)


def _codes() -> Iterator[list[str]]:
    for code, status in STATUS.items():
        yield [str(status), f"`{code.value}`"]


def _keys() -> Iterator[list[str]]:
    for name, key in FAMILIES.items():
        yield [f"`{key.pattern}`", f"`{name.upper()}`", key.holds, key.end]


TABLES: Final[dict[str, tuple[list[str], Callable[[], Iterator[list[str]]]]]] = {
    "stages": (["stage", "state that callers see", "may be followed by"], _stages),
    "settings": (["setting", "default"], _settings),
    "codes": (["status", "code"], _codes),
    "keys": (
        ["key, below its partition's or the system's root", "in keys.py", "holds", "end"],
        _keys,
    ),
}

if __name__ == "__main__":
    for home in sorted(set(HOMES.values())):
        document = source.ROOT / home
        document.write_text(rendered(document.read_text(encoding="utf-8")), encoding="utf-8")
