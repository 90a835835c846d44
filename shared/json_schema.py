"""JSON schemas that callers send: which are taken, and whether a text matches one.

Owns the keywords that are taken, and the bounds that make a check cheap whatever the schema. Only
keywords whose cost is known are taken: none that collects what its neighbours have evaluated, since
such checks double with each level. A schema is expanded along its references, each use counted
again, and is refused if that has no end or gives too many nodes: alternatives that are nested by
reference multiply, so that 22 levels of two make four million. Patterns are few, matched in linear
time, and bounded in what they compile to. Nothing is ever fetched.

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
_DEPTH_MAX: Final = 48
_PATTERNS_MAX: Final = 16
# What one pattern may take once it is compiled, in bytes; classes of Unicode with counts exceed it.
_PATTERN_BYTES_MAX: Final = 100_000
_INTEGER_MAX: Final = 2**63 - 1
# Nodes of a schema times values of a text, and patterns times its bytes: a part of a second.
_WORK_MAX: Final = 5_000_000
_FLAW_CHARACTERS_MAX: Final = 200
_DEFINITIONS: Final = ("$defs", "definitions")

# Keywords with one schema, with a list of them, and with schemas by the names of properties.
_ONE: Final = frozenset({"items", "additionalProperties", "not", "contains", "propertyNames"})
_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS: Final = frozenset({"properties", *_DEFINITIONS})
_PLAIN: Final = frozenset(
    "type enum const required title description default examples format $comment deprecated "
    "readOnly writeOnly minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength "
    "maxLength minItems maxItems uniqueItems minContains maxContains minProperties maxProperties "
    "pattern $ref".split()
)
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_decode = msgspec.json.Decoder().decode


def find_fault(schema: dict[str, Any]) -> str | None:
    """Return why a schema is not taken, as the rest of a sentence about it; None if it is."""
    if len(msgspec.json.encode(schema)) > _BYTES_MAX:
        return f"is longer than {_BYTES_MAX} bytes"
    try:
        _measure(schema)
        _check_numbers(schema)
    except _RefusedSchemaError as error:
        return str(error)
    try:
        _compile(msgspec.json.encode(schema))
    # The library's own errors are ValueErrors.
    except (ValueError, OverflowError) as error:
        return f"is no valid JSON schema: {_first_line(error)}"
    return None


def find_flaw(schema: dict[str, Any], text: str) -> str | None:
    """Return why a text is no JSON of a schema that was taken; None if it is."""
    try:
        encoded = text.encode()
        value = _decode(encoded)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return "it is no JSON"
    nodes, patterns = _measure(schema)
    work = max(nodes * sum(1 for _ in _values(value)), patterns * 8 * len(encoded))
    if work > _WORK_MAX:
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
    """The schema has a keyword that is not taken, refers to what it may not, or is too large."""


def _measure(schema: dict[str, Any]) -> tuple[int, int]:
    """Return how many nodes and patterns the expanded schema has. Raises _RefusedSchemaError."""
    nodes = patterns = 0
    pending: list[tuple[object, int, frozenset[str]]] = [(schema, 0, frozenset())]
    while pending:
        node, depth, followed = pending.pop()
        nodes += 1
        if nodes > _NODES_MAX:
            raise _RefusedSchemaError(f"has more than {_NODES_MAX} nodes with all references")
        if depth > _DEPTH_MAX:
            raise _RefusedSchemaError(f"is nested deeper than {_DEPTH_MAX} levels")
        if not isinstance(node, dict):
            continue
        _check_keywords(node, is_root=node is schema)
        patterns += "pattern" in node
        if patterns > _PATTERNS_MAX:
            raise _RefusedSchemaError(f"has more than {_PATTERNS_MAX} patterns")
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference in followed:
                raise _RefusedSchemaError("refers to itself, which is not supported")
            pending.append((_resolve(schema, reference), depth + 1, followed | {reference}))
        pending.extend((each, depth + 1, followed) for each in _subschemas(node))
    return nodes, patterns


def _check_keywords(node: dict[str, Any], *, is_root: bool) -> None:
    for name, value in node.items():
        if name == "$schema" and is_root and str(value).rstrip("#") == _DRAFT:
            continue
        if name in _DEFINITIONS and is_root:
            continue
        if name not in _ONE | _LISTS | _PLAIN and name != "properties":
            raise _RefusedSchemaError(f"uses `{name[:100]}`, which is not supported here")


def _subschemas(node: dict[str, Any]) -> Iterator[Any]:
    """Return the schemas inside a node; definitions count where they are used, and once more."""
    for name, value in node.items():
        if name in _ONE:
            yield value
        elif name in _LISTS and isinstance(value, list):
            yield from value
        elif name in _MAPS and isinstance(value, dict):
            yield from value.values()


def _resolve(schema: dict[str, Any], reference: str) -> object:
    """Return what a reference like `#/$defs/name` stands for. Raises _RefusedSchemaError."""
    base, *path = reference.split("/")
    name = path[1].replace("~1", "/").replace("~0", "~") if len(path) == 2 else ""  # noqa: PLR2004  its parts
    definitions = schema.get(path[0]) if name and path[0] in _DEFINITIONS else None
    if base != "#" or not isinstance(definitions, dict) or name not in definitions:
        raise _RefusedSchemaError(f"refers to `{reference[:100]}`, which is no definition of it")
    return definitions[name]


def _check_numbers(schema: dict[str, Any]) -> None:
    """Refuse whole numbers that no record of ours can hold. Raises _RefusedSchemaError."""
    for value in _values(schema):
        if isinstance(value, int) and abs(value) > _INTEGER_MAX:
            raise _RefusedSchemaError("has a number that is too large")


def _values(value: object) -> Iterator[object]:
    pending = [value]
    while pending:
        each = pending.pop()
        yield each
        if isinstance(each, dict):
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)


def _compile(schema: bytes) -> _Validator:
    library = importlib.import_module("jsonschema_rs")
    patterns = library.RegexOptions(
        size_limit=_PATTERN_BYTES_MAX, dfa_size_limit=_PATTERN_BYTES_MAX
    )
    validator: _Validator = library.Draft202012Validator(
        schema.decode(), pattern_options=patterns, offline=True
    )
    return validator


_validator = functools.lru_cache(maxsize=16)(_compile)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:_FLAW_CHARACTERS_MAX]
