"""Decodes JSON that has not quite the expected form.

Owns what to do with an event that the strict decoder of its dialect refuses: half of a surrogate
pair, numbers as text, one item in place of a list. A field that fits in no way is left out, so that
a malformed detail harms nothing else. Slow: only for events that were refused.
"""

import json
import math
import re
from types import NoneType, UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
# A surrogate pair, half a pair alone, or any other escape; matched from the left, none overlaps.
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<first>\\u[dD][89abAB][0-9a-fA-F]{2})(?P<is_last>\")?"
    rb"|(?P<begins>\")?(?P<second>\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_UNKNOWN: Final = b"\\ufffd"
_ERROR_WORD: Final = b'"error"'
# An unreadable event that contains one of these may have held a piece of the answer.
_PIECE_WORDS: Final = (b'"content"', b'"text"', b'"delta"', b'"parts"')
_DIGITS_MAX: Final = 30
_NUMBER_MAX: Final = 1e30
_TRUE_WORDS: Final = frozenset({"true", "1"})


class TolerantDecoder(Generic[T]):
    """Decodes the events of one answer into `kind`, each as far as possible.

    Some servers split an answer within a surrogate pair: the first half is kept for the next event,
    where the second half begins a text.
    """

    def __init__(self, kind: type[T], strict: msgspec.json.Decoder[T]) -> None:
        self._kind = kind
        self._strict = strict
        self._pending_surrogate = b""

    def decode(self, data: bytes) -> T | None:
        """Return an event, or None if it is no JSON object and can be ignored.

        Raises:
            msgspec.ValidationError: it cannot be read, and may have held a piece of the answer.

        """
        repaired = self._repair_surrogates(data)
        try:
            return self._strict.decode(repaired)
        except _DECODE_ERRORS:
            pass
        try:
            found = loads(repaired)
        except _DECODE_ERRORS:
            return self._unreadable(data)
        return convert_struct(self._kind, found) if isinstance(found, dict) else None

    def _unreadable(self, data: bytes) -> T | None:
        if not data.lstrip().startswith(b"{"):
            return None
        if any(word in data for word in _PIECE_WORDS):
            raise msgspec.ValidationError("a piece of the answer cannot be read")
        if _ERROR_WORD in data:
            return convert_struct(self._kind, {"error": data.decode(errors="replace")})
        return None

    def _repair_surrogates(self, data: bytes) -> bytes:
        """Return JSON without half surrogate pairs: two halves are joined, others replaced."""
        if b"\\u" not in data:
            return data
        kept, self._pending_surrogate = self._pending_surrogate, b""

        def repair(found: re.Match[bytes]) -> bytes:
            if found["first"]:
                if found["is_last"]:
                    self._pending_surrogate = found["first"]
                    return b'"'
                return _UNKNOWN
            if found["second"]:
                before = found["begins"] or b""
                return before + (kept + found["second"] if before and kept else _UNKNOWN)
            return found[0]

        return _ESCAPE.sub(repair, data)


def loads(data: bytes) -> Any:  # noqa: ANN401  any JSON value
    """Decode JSON, also with numbers and characters that JSON does not allow.

    Raises:
        ValueError: it is no JSON; also RecursionError.

    """
    try:
        return msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return json.loads(data.decode(errors="replace"), strict=False, parse_int=_whole_number)


def is_json(data: bytes) -> bool:
    """Tell whether data is a complete JSON document."""
    try:
        loads(data)
    except _DECODE_ERRORS:
        return False
    return True


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS_MAX else float(digits)


def convert_struct(kind: type[T], found: dict[str, Any]) -> T:
    """Return a struct of the fields that fit; a field whose value does not fit is left out."""
    known = {}
    for field in msgspec.structs.fields(kind):
        value = _convert_value(field.type, found.get(field.encode_name))
        if value is not None:
            known[field.name] = value
    return kind(**known)


def _convert_value(kind: Any, value: object) -> Any:  # noqa: ANN401  types and values of any kind
    """Convert a value to a type, or return None."""
    if value is None or kind is Any:
        return _clean(value)
    if get_origin(kind) in {Union, UnionType}:
        kinds = [each for each in get_args(kind) if each is not NoneType]
        found = (_convert_value(each, value) for each in _likeliest(kinds, value))
        return next((each for each in found if each is not None), None)
    if get_origin(kind) is list:
        return _convert_list(get_args(kind)[0], value)
    if get_origin(kind) is dict:
        return _clean(value) if isinstance(value, dict) else None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return convert_struct(kind, value) if isinstance(value, dict) else None
    return _PLAIN[kind](value) if kind in _PLAIN else None


def _likeliest(kinds: list[Any], value: object) -> list[Any]:
    """Return the types with the value's own type first."""
    return sorted(kinds, key=lambda kind: type(value) not in {kind, get_origin(kind)})


def _convert_list(kind: Any, value: object) -> list[Any] | None:  # noqa: ANN401  a value of any kind
    """Convert a value to a list; a single item becomes a list of one."""
    if not isinstance(value, list | dict):
        return None
    items = value if isinstance(value, list) else [value]
    fitted = (_convert_value(kind, item) for item in items)
    return [item for item in fitted if item is not None]


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return _whole_characters(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value) if abs(value) < _NUMBER_MAX else None


def _count(value: object) -> int | None:
    """Convert a value to an integer, also from text or from 3.0."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number.is_integer() else None


def _flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return str(value).lower() in _TRUE_WORDS if isinstance(value, str | int) else None


def _clean(value: Any) -> Any:  # noqa: ANN401  a value of any kind
    """Return a value whose texts have no half surrogate pairs."""
    if isinstance(value, str):
        return _whole_characters(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(str(name)): _clean(item) for name, item in value.items()}
    return value


def _whole_characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _raw(value: object) -> msgspec.Raw:
    """Encode a value as JSON again; numbers that JSON does not allow stay invalid."""
    return msgspec.Raw(json.dumps(_clean(value)).encode())


_PLAIN: Final[dict[Any, Any]] = {str: _text, int: _count, bool: _flag, msgspec.Raw: _raw}
