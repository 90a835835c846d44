"""JSON schemas that callers send: which are taken, and whether a text matches one.

Owns the bounds that make a check cheap whatever the schema. A schema is expanded along its
references, each use counted anew, and is refused if that has no end or gives too many nodes, since
alternatives that are nested by reference multiply: 22 levels of two make four million. Patterns
are matched in linear time. Nothing is ever fetched.

DESIGN. The library is loaded at the first schema: it takes 11 MiB and 130 ms, and most processes
never see one.
"""

import functools
import importlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

_BYTES_MAX: Final = 65_536
_NODES_MAX: Final = 2_000
_DEPTH_MAX: Final = 64
# Nodes of a schema times values of a text: about half a second.
_WORK_MAX: Final = 20_000_000
_FLAW_CHARACTERS_MAX: Final = 200
_SAME_DOCUMENT: Final = "#"

_decode = msgspec.json.Decoder().decode


def find_fault(schema: dict[str, Any]) -> str | None:
    """Return why a schema is not taken, as the rest of a sentence about it; None if it is."""
    if len(msgspec.json.encode(schema)) > _BYTES_MAX:
        return f"is longer than {_BYTES_MAX} bytes"
    try:
        _count_nodes(schema)
    except _RefusedSchemaError as error:
        return str(error)
    try:
        _validator(msgspec.json.encode(schema))
    # The library's own errors are ValueErrors.
    except (ValueError, OverflowError) as error:
        return f"is no valid JSON schema: {_first_line(error)}"
    return None


def find_flaw(schema: dict[str, Any], text: str) -> str | None:
    """Return why a text is no JSON of a schema that was taken; None if it is."""
    try:
        value = _decode(text.encode())
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return "it is no JSON"
    if _count_nodes(schema) * sum(1 for _ in _values(value)) > _WORK_MAX:
        return "it is too long to be checked"
    try:
        # The first error only: listing all of them takes minutes where many values fail.
        _validator(msgspec.json.encode(schema)).validate(value)
    except ValueError as error:
        return _first_line(error)
    return None


def is_object(text: str) -> bool:
    """Tell whether a text is one JSON object."""
    try:
        return isinstance(_decode(text.encode()), dict)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return False


class _Validator(Protocol):
    def validate(self, instance: object) -> None:
        """Raise the first error of a value."""


class _RefusedSchemaError(Exception):
    """The schema refers to itself, refers to elsewhere, or is too large once it is expanded."""


def _count_nodes(schema: dict[str, Any]) -> int:
    """Return how many nodes the expanded schema has. Raises _RefusedSchemaError."""
    count = 0
    pending: list[tuple[object, int, frozenset[str]]] = [(schema, 0, frozenset())]
    while pending:
        node, depth, followed = pending.pop()
        count += 1
        if count > _NODES_MAX:
            raise _RefusedSchemaError(f"has more than {_NODES_MAX} nodes with all references")
        if depth > _DEPTH_MAX:
            raise _RefusedSchemaError(f"is nested deeper than {_DEPTH_MAX} levels")
        if isinstance(node, dict):
            reference = _reference(node)
            if reference is not None:
                if reference in followed:
                    raise _RefusedSchemaError("refers to itself, which is not supported")
                pending.append((_resolve(schema, reference), depth + 1, followed | {reference}))
        pending.extend((each, depth + 1, followed) for each in _children(node))
    return count


def _children(node: object) -> Iterator[Any]:
    """Return what stands inside a node, except definitions, which count where they are used."""
    if isinstance(node, dict):
        yield from (each for name, each in node.items() if name not in {"$defs", "definitions"})
    elif isinstance(node, list):
        yield from node


def _reference(node: dict[str, Any]) -> str | None:
    for name in ("$dynamicRef", "$recursiveRef", "$id", "$anchor", "$dynamicAnchor"):
        if isinstance(node.get(name), str):
            raise _RefusedSchemaError(f"uses `{name}`, which is not supported")
    found = node.get("$ref")
    return found if isinstance(found, str) else None


def _resolve(schema: dict[str, Any], reference: str) -> object:
    """Return what a reference like `#/$defs/name` stands for. Raises _RefusedSchemaError."""
    base, _, path = reference.partition("/")
    node: Any = schema
    for word in path.split("/") if path else ():
        key = word.replace("~1", "/").replace("~0", "~")
        node = node.get(key) if isinstance(node, dict) else None
    if base != _SAME_DOCUMENT or node is None:
        raise _RefusedSchemaError(f"refers to `{reference[:100]}`, which is not in it")
    return node


def _values(value: object) -> Iterator[object]:
    pending = [value]
    while pending:
        each = pending.pop()
        yield each
        if isinstance(each, dict):
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)


@functools.lru_cache(maxsize=64)
def _validator(schema: bytes) -> _Validator:
    library = importlib.import_module("jsonschema_rs")
    patterns = library.RegexOptions()
    validator: _Validator = library.validator_for(
        schema.decode(), pattern_options=patterns, offline=True
    )
    return validator


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:_FLAW_CHARACTERS_MAX]
