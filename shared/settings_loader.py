"""Reads TOML files and variables into trees, and finds every fault in them with its path.

Owns which files are read: `POLLUX_CONFIG`, or `pollux.toml` if it exists, and the catalogue file
that it or a variable names, relative to it. Owns how a variable's name becomes a path, and how a
tree is checked against a shape of nested tables, value by value. Knows no setting by name beyond
these.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_type_hints

import msgspec

Tree = dict[str, Any]
Shape = TypeVar("Shape", bound=msgspec.Struct)

_SIMILARITY_MIN = 0.75
_SERVICE_LINK = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)$"
)


def files(environment: Mapping[str, str], folder: Path) -> list[Path]:
    """Return the files that settings are read from: the settings file and the catalogue, if any."""
    *_, catalogue = load_trees(environment, folder, [])
    named = (_settings_file(environment, folder), catalogue)
    return [path for path in named if path is not None]


def load_trees(
    environment: Mapping[str, str], folder: Path, faults: list[str]
) -> tuple[Tree, Tree, Path | None]:
    """Return the settings file's tree, the catalogue's tree, and the catalogue's path."""
    path = _settings_file(environment, folder)
    tree = _parse_toml(path, faults) if path is not None else {}
    section = tree.get("catalogue")
    named = section.get("path") if isinstance(section, dict) else None
    named = environment.get("POLLUX_CATALOGUE__PATH", named)
    if not isinstance(named, str) or not named:
        return tree, {}, None
    catalogue = (path.parent if path is not None else folder) / named
    return tree, _parse_toml(catalogue, faults), catalogue


def _settings_file(environment: Mapping[str, str], folder: Path) -> Path | None:
    named = environment.get("POLLUX_CONFIG")
    path = Path(named) if named else folder / "pollux.toml"
    return path if named or path.exists() else None


def _parse_toml(path: Path, faults: list[str]) -> Tree:
    """Return the tree of a TOML file; empty, with a fault, where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(f"{path}: cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        # A path with NUL, bytes that are not UTF-8, invalid TOML, or nesting beyond the recursion
        # limit.
        faults.append(f"{path}: not valid TOML: {error}")
    return {}


def _is_service_link(name: str) -> bool:
    """Tell whether Kubernetes or Docker sets this variable for a service named `pollux`.

    Such a service sets `POLLUX_PORT`, `POLLUX_SERVICE_HOST`, `POLLUX_PORT_8000_TCP_ADDR` and the
    like in every pod beside it. Variables of settings have a double underscore, these never do.
    """
    return "__" not in name and _SERVICE_LINK.search(name) is not None


def set_from_variable(
    shape: type[msgspec.Struct], tree: Tree, name: str, text: str, faults: list[str], *, prefix: str
) -> None:
    """Set the value at a variable's path: `POLLUX_REDIS__PARTITIONS=3` sets `redis.partitions`.

    A variable that names no setting is a fault, reported with the most similar name; one that a
    cluster sets for a service of our name is ignored.
    """
    if _is_service_link(name):
        return
    path = name.removeprefix(prefix).lower().split("__")
    if len(path) == 1 or not _is_known(shape, path):
        known = [f"{prefix}{each.replace('.', '__').upper()}" for each in setting_paths(shape)]
        form = f"names have the form {prefix}SECTION__NAME"
        faults.append(f"{name}: unknown setting{_suggest(name, known) or f' ({form})'}")
        return
    table = tree
    for part in path[:-1]:
        table = table_of(table, part, faults)
    table[path[-1]] = text


def fill_defaults(shape: type[msgspec.Struct], tree: Tree) -> None:
    """Fill a partly given table from its own default.

    Tables of one shape may have different defaults (`limits.free`, `limits.pro`); a table in the
    tree would otherwise get the defaults of the shape.
    """
    for field in msgspec.structs.fields(shape):
        table = tree.get(field.name)
        if not isinstance(table, dict) or not _is_section(_hints(shape)[field.name]):
            continue
        if isinstance(field.default, msgspec.Struct):
            for name, value in msgspec.structs.asdict(field.default).items():
                if not isinstance(value, msgspec.Struct):
                    table.setdefault(name, value)
        fill_defaults(_hints(shape)[field.name], table)


def _is_known(shape: object, path: list[str]) -> bool:
    """Tell whether a path leads to a value of a shape made of tables."""
    for part in path:
        if not _is_section(shape) or part not in _hints(shape):
            return False
        shape = _hints(shape)[part]
    return True


def setting_paths(shape: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    """Yield the path of every setting of a shape."""
    for name, hint in _hints(shape).items():
        if _is_section(hint):
            yield from setting_paths(hint, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _suggest(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name, list(known), 1, _SIMILARITY_MIN)
    return f"; did you mean {found[0]}?" if found else ""


def table_of(tree: Tree, name: str, faults: list[str]) -> Tree:
    """Return a table of the tree, created if missing."""
    table = tree.setdefault(name, {})
    if not isinstance(table, dict):
        faults.append(f"{name}: expected a table")
        table = tree[name] = {}
    return table


def entries(tree: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list of the tree; empty where there is none."""
    found = tree.get(name)
    return found if isinstance(found, list) else []


def readable_entries(tree: Mapping[str, Any], name: str, shape: type[Shape]) -> dict[int, Shape]:
    """Return the entries of a list that can be converted, by their index."""
    found = {}
    for place, entry in enumerate(entries(tree, name)):
        with suppress(msgspec.ValidationError):
            found[place] = msgspec.convert(entry, shape, strict=False)
    return found


def check(
    shape: type[msgspec.Struct], tree: Mapping[str, Any], path: str, faults: list[str]
) -> None:
    """Convert every value by itself, so that one wrong value does not hide the next."""
    hints = _hints(shape)
    required = {field.name for field in msgspec.structs.fields(shape) if field.required}
    for name, value in tree.items():
        if name not in hints:
            faults.append(f"{path}{name}: unknown setting{_suggest(name, hints)}")
        else:
            _check_field(hints[name], value, f"{path}{name}", faults)
    faults.extend(f"{path}{name}: is required" for name in sorted(required - tree.keys()))


@cache
def _hints(shape: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(shape, include_extras=True)


def _check_field(hint: object, value: object, path: str, faults: list[str]) -> None:
    if _is_section(hint) and isinstance(value, dict):
        check(hint, value, f"{path}.", faults)
        return
    item = getattr(hint, "__args__", (None,))[0]
    if _is_section(item) and isinstance(value, list):
        for index, entry in enumerate(value):
            _check_field(item, entry, f"{path}[{index}]", faults)
        return
    try:
        msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        faults.append(f"{path}: {_without_msgspec_path(str(error))}")


def _is_section(hint: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _without_msgspec_path(message: str) -> str:
    """Remove msgspec's own path (`$`) from a message, since ours stands before it."""
    sentence = re.sub(
        r" - at `\$(.*)`$", lambda found: f" (at {found[1]})" if found[1] else "", message
    )
    return sentence[:1].lower() + sentence[1:]
