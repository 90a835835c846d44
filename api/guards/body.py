"""Reads a request's body within its bounds of size and time, and decodes it into a typed value.

Owns every way in which a body can be wrong, and the sentence for each. Nothing that a caller sends
becomes anything but a 4xx here: NUL and lone surrogates, which msgspec accepts, are found in one
walk; UnicodeDecodeError and RecursionError, which it lets escape, are caught.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request

from api.guards import validation_errors
from api.server.request_head import FieldsByName
from shared.errors import Code, RequestError
from shared.settings import ApiSettings

Value = TypeVar("Value")

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FRACTION_FOR_WHOLE: Final = re.compile(r"Expected `int[^,]*, got `float`")


def size_max(fields: FieldsByName, settings: ApiSettings) -> int:
    """Return how large the body may become. Raises RequestError (PAYLOAD_TOO_LARGE)."""
    declared = fields.get(b"content-length", "")
    if not declared.isdecimal():
        return settings.body_bytes_max
    if int(declared) > settings.body_bytes_max:
        raise _too_large(settings)
    return int(declared)


async def read(request: Request, fields: FieldsByName, settings: ApiSettings) -> bytes:
    """Return the whole body.

    Raises:
        RequestError: PAYLOAD_TOO_LARGE beyond `body_bytes_max`, REQUEST_TIMEOUT when it does not
            arrive within `body_seconds`, UNSUPPORTED_MEDIA_TYPE when its type is not JSON.
    """
    kind = fields.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind not in {"", "application/json"} and not kind.endswith("+json"):
        raise RequestError("The body must be application/json.", Code.UNSUPPORTED_MEDIA_TYPE)
    if fields.get(b"content-encoding", "").lower() not in {"", "identity"}:
        raise RequestError("The body must not be compressed.", Code.UNSUPPORTED_MEDIA_TYPE)
    if "body_is_here" in request.scope:
        return await _collect(request, settings)
    try:
        async with asyncio.timeout(settings.body_seconds):
            return await _collect(request, settings)
    except TimeoutError:
        raise RequestError("The body did not arrive in time.", Code.REQUEST_TIMEOUT) from None


async def _collect(request: Request, settings: ApiSettings) -> bytes:
    chunks: list[bytes] = []
    size = 0
    is_whole = False
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise RequestError("The body did not arrive whole.", Code.REQUEST_TIMEOUT)
        chunk = message.get("body", b"")
        is_whole = not message.get("more_body", False)
        size += len(chunk)
        if size > settings.body_bytes_max:
            raise _too_large(settings)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(settings: ApiSettings) -> RequestError:
    return RequestError(
        f"The body is larger than {settings.body_bytes_max} bytes.", Code.PAYLOAD_TOO_LARGE
    )


class Body:
    """The decoder of one type of body. Of a repeated name in JSON, the last value counts."""

    def __init__(self, shape: type[Any]) -> None:
        self.shape = shape
        self._decode = msgspec.json.Decoder(shape).decode

    def decode(self, raw: bytes) -> Any:
        """Return the typed value. Raises RequestError (MISSING_FIELDS, INVALID_FIELDS)."""
        try:
            value = self._typed(raw)
        except msgspec.ValidationError as error:
            raise validation_errors.refusal(str(error), self.shape) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RequestError("The body is not valid JSON.", Code.INVALID_FIELDS) from None
        except RecursionError:
            raise RequestError("The body is nested too deeply.", Code.INVALID_FIELDS) from None
        # Only an escape, or the byte itself, can produce a NUL or half of a surrogate pair.
        if b"\\u" in raw or b"\0" in raw:
            refuse_unprintable(value)
        return value

    def _typed(self, raw: bytes) -> Any:
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
        try:
            return self._decode(raw)
        except msgspec.ValidationError as error:
            if not _FRACTION_FOR_WHOLE.search(str(error)):
                raise
        return msgspec.convert(_with_whole_numbers(msgspec.json.decode(raw)), self.shape)


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
