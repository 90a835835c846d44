"""The kinds of request bodies: JSON, lines of JSON, text; how each is decoded and refused.

Owns every way in which a body can be wrong, and the sentence for each. Nothing that a caller sends
becomes anything but a 4xx here: NUL and lone surrogates, which msgspec accepts, are found in one
walk; UnicodeDecodeError and RecursionError, which it lets escape, are caught.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec
from typing_extensions import override

from api.guards import body_types, validation_errors
from api.guards.body import UnknownFields
from api.server.request_head import FieldsByName
from shared.errors import Code, RequestError

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FRACTION_FOR_WHOLE: Final = re.compile(r"Expected `int[^,]*, got `float`")
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)


class Body(Protocol):
    """One kind of body; `shape` is the type of its value, or of each of its lines.

    `is_required`: a request without one is refused.
    """

    shape: Any
    media_type: str
    is_required: bool

    def takes(self, media_type: str) -> bool:
        """Whether a body with this Content-Type, without parameters, is of this kind."""

    def decode(self, raw: bytes, unknown_fields: UnknownFields) -> Any:
        """Return the value. Raises RequestError (MISSING_FIELDS, INVALID_FIELDS)."""


class StreamedBody:
    """A body of one of several kinds that the handler reads as it comes, compressed or not."""

    def __init__(self, *kinds: Body) -> None:
        self.kinds = kinds

    def kind_of(self, fields: FieldsByName) -> Body:
        """Return the body's kind, the first where none is named.

        Raises RequestError (UNSUPPORTED_MEDIA_TYPE).
        """
        media_type = _media_type(fields)
        kind = next((kind for kind in self.kinds if not media_type or kind.takes(media_type)), None)
        if kind is None:
            listed = " or ".join(kind.media_type for kind in self.kinds)
            raise RequestError(f"The body must be {listed}.", Code.UNSUPPORTED_MEDIA_TYPE)
        return kind


def is_gzip(fields: FieldsByName) -> bool:
    """Tell whether a body is compressed. Raises RequestError (UNSUPPORTED_MEDIA_TYPE)."""
    encoding = fields.get(b"content-encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise RequestError("The body may be compressed by gzip only.", Code.UNSUPPORTED_MEDIA_TYPE)
    return encoding.endswith("gzip")


def check_kind(body: Body, fields: FieldsByName) -> None:
    """Raise RequestError (UNSUPPORTED_MEDIA_TYPE) for a body of another kind, or compressed."""
    media_type = _media_type(fields)
    if media_type and not body.takes(media_type):
        raise RequestError(f"The body must be {body.media_type}.", Code.UNSUPPORTED_MEDIA_TYPE)
    if media_type.startswith("text/") and not _is_utf8(fields[b"content-type"]):
        raise RequestError("The body must be in UTF-8.", Code.UNSUPPORTED_MEDIA_TYPE)
    if fields.get(b"content-encoding", "").lower() not in {"", "identity"}:
        raise RequestError("The body must not be compressed.", Code.UNSUPPORTED_MEDIA_TYPE)


def _media_type(fields: FieldsByName) -> str:
    return fields.get(b"content-type", "").partition(";")[0].strip().lower()


def _is_utf8(content_type: str) -> bool:
    charset = _CHARSET.search(content_type)
    return charset is None or charset[1].lower() in {"utf-8", "utf8"}


class JsonBody:
    """JSON of one type. Of a repeated name, the last value counts."""

    media_type: str = "application/json"
    is_required = True

    def __init__(self, shape: Any) -> None:
        self.shape = shape
        self._decode = msgspec.json.Decoder(shape).decode

    def takes(self, media_type: str) -> bool:
        """Whether it is JSON."""
        return media_type == self.media_type or media_type.endswith("+json")

    def decode(self, raw: bytes, unknown_fields: UnknownFields = "refuse") -> Any:
        """Return the typed value. Raises RequestError (MISSING_FIELDS, INVALID_FIELDS)."""
        try:
            value = self._typed(raw.removeprefix(_BYTE_ORDER_MARK), unknown_fields)
            # Only an escape, or the byte itself, can produce a NUL or half of a surrogate pair.
            # A long body is searched much faster for one byte than for two.
            if (b"\\" in raw and b"\\u" in raw) or b"\0" in raw:
                refuse_unprintable(value)
        except msgspec.ValidationError as error:
            raise validation_errors.refusal(str(error), self.shape) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RequestError("The body is not valid JSON.", Code.INVALID_FIELDS) from None
        except RecursionError:
            raise RequestError("The body is nested too deeply.", Code.INVALID_FIELDS) from None
        return value

    def _typed(self, raw: bytes, unknown_fields: UnknownFields) -> Any:
        try:
            return self._decode(raw)
        except msgspec.ValidationError as error:
            if unknown_fields == "refuse" and not _FRACTION_FOR_WHOLE.search(str(error)):
                raise
        value = _with_whole_numbers(msgspec.json.decode(raw))
        if unknown_fields == "ignore":
            value = body_types.without_unknown_fields(value, self.shape)
        return msgspec.convert(value, self.shape)


class OptionalJsonBody(JsonBody):
    """JSON of one type; no body at all counts as an empty object."""

    is_required = False

    @override
    def decode(self, raw: bytes, unknown_fields: UnknownFields = "refuse") -> Any:
        """Return the typed value. Raises RequestError (MISSING_FIELDS, INVALID_FIELDS)."""
        return super().decode(raw or b"{}", unknown_fields)


class JsonLinesBody(JsonBody):
    """Lines of JSON, each of one type; empty lines are skipped. A refusal names the line."""

    media_type = "application/jsonl"

    @override
    def takes(self, media_type: str) -> bool:
        """Whether it is JSON Lines, by any of its names."""
        return media_type in {self.media_type, "application/x-ndjson", "application/x-jsonlines"}

    @override
    def decode(self, raw: bytes, unknown_fields: UnknownFields = "refuse") -> list[Any]:
        """Return the typed values. Raises RequestError (MISSING_FIELDS, INVALID_FIELDS)."""
        values = []
        for number, line in enumerate(raw.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                values.append(super().decode(line, unknown_fields))
            except RequestError as error:
                raise RequestError(f"Line {number}: {error.message}", error.code) from None
        if not values:
            raise RequestError("The body has no lines.", Code.MISSING_FIELDS)
        return values


class TextBody:
    """Text in UTF-8; `shape` is `str` with its name and description for the document."""

    media_type: str = "text/plain"
    is_required = True

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def takes(self, media_type: str) -> bool:
        """Whether it is plain text."""
        return media_type == self.media_type

    def decode(self, raw: bytes, _unknown_fields: UnknownFields = "refuse") -> str:
        """Return the text. Raises RequestError (INVALID_FIELDS)."""
        try:
            text = raw.removeprefix(_BYTE_ORDER_MARK).decode()
        except UnicodeDecodeError:
            raise RequestError("The body is not text in UTF-8.", Code.INVALID_FIELDS) from None
        if "\0" in text:
            raise RequestError(
                "The body holds a character that cannot be stored.", Code.INVALID_FIELDS
            )
        return text


def _with_whole_numbers(value: Any) -> Any:
    """Return the value with 60 in place of 60.0: JSON has only one type of number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _with_whole_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return value


def refuse_unprintable(value: object, path: str = "") -> None:
    """Raise RequestError for a text that contains NUL or half of a surrogate pair."""
    if isinstance(value, str):
        if "\0" in value or not _is_encodable(value):
            raise RequestError(
                f"The field `{path}` holds a character that cannot be stored.", Code.INVALID_FIELDS
            )
        return
    for part, where in _parts(value, path):
        refuse_unprintable(part, where)


def _parts(value: object, path: str) -> Iterator[tuple[object, str]]:
    """Yield the parts of a value with their paths; the names of a map are parts too."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield getattr(value, name), f"{path}.{name}".strip(".")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name, path
            yield item, f"{path}.{name}".strip(".")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield item, f"{path}[{index}]"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
