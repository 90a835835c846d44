"""The sentence for a body that does not fit its type, in the words of JSON.

Owns the sentence: the field, and every value it may have, read from the type itself. Does not
repeat what the caller sent.
"""

import re
from typing import Any, Final

from msgspec import inspect

from api.guards import body_types
from shared.errors import Code, RequestError

# A required field that is missing or null: null counts as absent.
_MISSING: Final = re.compile(r"missing required field `([^`]+)`|got `null` - at `\$\.(\w+)`$")
_UNKNOWN: Final = re.compile(r"contains unknown field `([^`]+)`")
_PATH: Final = re.compile(r" - at (`key` in )?`\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")
_GOT: Final = re.compile(r", got `(\w+)`")
_NAMES: Final[dict[type[inspect.Type], str]] = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a string",
    inspect.BoolType: "true or false",
    inspect.ListType: "an array",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
}
_PARTS: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "characters",
    inspect.ListType: "items",
    inspect.DictType: "names",
}
_GOT_NAMES: Final = {
    "int": "a number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def refusal(message: str, shape: type[Any]) -> RequestError:
    """Return the refusal of a body; `message` is msgspec's."""
    if missing := _MISSING.search(message):
        name = missing[1] or missing[2]
        return RequestError(f"The field `{name}` is required.", Code.MISSING_FIELDS)
    if unknown := _UNKNOWN.search(message):
        return RequestError(f"The field `{unknown[1]}` is unknown.", Code.INVALID_FIELDS)
    path = _PATH.search(message)
    steps, is_name = (path[2], path[1] is not None) if path else ("", False)
    subject = _subject(steps, is_name=is_name)
    kinds = _types_at(shape, steps, is_name=is_name)
    sentence = f"{subject} must be {_expected(kinds)}{_instead(message, kinds)}."
    return RequestError(sentence, Code.INVALID_FIELDS)


def _subject(steps: str, *, is_name: bool) -> str:
    """Return what a path as `$.media_urls[0]` refers to; `[...]` is any value of an object."""
    name = steps.removeprefix(".")
    if not name:
        return "The body"
    if is_name:
        return f"Each name in the field `{name}`"
    if name.endswith("[...]"):
        return f"Each value in the field `{name.removesuffix('[...]')}`"
    return f"The field `{name}`"


def _types_at(shape: Any, steps: str, *, is_name: bool) -> list[inspect.Type]:  # noqa: ANN401  any type
    """Return the types that a path refers to."""
    found = body_types.alternatives(body_types.tree(shape))
    for step in _STEP.finditer(steps):
        found = [part for each in found for part in body_types.parts(each, step[1])]
    if is_name:
        found = [each.key_type for each in found if isinstance(each, inspect.DictType)]
    return found


def _expected(kinds: list[inspect.Type]) -> str:
    """Return every value allowed, as in: a whole number, at least 1 and at most 10."""
    if not kinds:
        return "something else"
    *others, last = dict.fromkeys(phrase for kind in kinds for phrase in _phrases(kind))
    return f"{', '.join(others)} or {last}" if others else last


def _phrases(kind: inspect.Type) -> list[str]:
    match kind:
        case inspect.LiteralType(values=values):
            return [f"`{value}`" for value in values]
        case inspect.IntType() | inspect.FloatType():
            return [_NAMES[type(kind)] + _bounds(kind)]
        case inspect.StrType() | inspect.ListType() | inspect.DictType():
            return [_NAMES[type(kind)] + _lengths(kind)]
        case _:
            return [_NAMES.get(type(kind), "something else")]


def _instead(message: str, kinds: list[inspect.Type]) -> str:
    """Return the type that a value has instead of an allowed one, if that is what is wrong."""
    got = _GOT.search(message)
    if got is None:
        return ""
    if got[1] == "float" and any(isinstance(kind, inspect.IntType) for kind in kinds):
        return ", without a fraction"
    return f", not {_GOT_NAMES.get(got[1], 'that')}"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    named = {"above": kind.gt, "at least": kind.ge, "below": kind.lt, "at most": kind.le}
    text = _listed(named)
    return f", {text}" if text else ""


def _lengths(kind: inspect.StrType | inspect.ListType | inspect.DictType) -> str:
    text = _listed({"at least": kind.min_length, "at most": kind.max_length})
    return f" of {text} {_PARTS[type(kind)]}" if text else ""


def _listed(bounds: dict[str, Any]) -> str:
    return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
