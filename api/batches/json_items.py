"""Cuts the items from a JSON document, wherever `items` stands in it, without decoding it.

The text of each item goes to a file without a name, the rest of the document stays in memory: so
the options are known before the first item is looked at. Only brackets, commas and strings are
recognized here; whether an item, and the rest, are valid JSON shows where they are decoded.

Example: of `{"items": [{"message": "a"}, {"message": "b"}], "dedupe": true}` the items are
`{"message": "a"}` and `{"message": "b"}`, and the rest is `{"items": [], "dedupe": true}`.
"""

import re
import struct
import tempfile
from collections.abc import Iterator
from typing import Final

from api.batches.lines import NumberedLine
from api.batches.terms import quota_exceeded
from shared.errors import Code, RequestError

REST_BYTES_MAX: Final = 1_048_576
_IN_MEMORY_BYTES: Final = 1_048_576
_STRUCTURE: Final = re.compile(rb'["{}\[\],]')
_STRING_END: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ITEMS: Final = b'"items"'
# What of the rest may hold the name before a bracket.
_NAME_BYTES: Final = 1_024
_LENGTH: Final = struct.Struct(">I")
_TOO_LONG: Final = 0xFFFFFFFF
# Where brackets stand: in the document, and among the items.
_MEMBERS_DEPTH: Final = 1
_ITEMS_DEPTH: Final = 2


class JsonItems:
    """The items of one document, of at most `items_max`, and the rest of it."""

    def __init__(self, item_bytes_max: int, items_max: int) -> None:
        self._item_bytes_max = item_bytes_max
        self._items_max = items_max
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115  closed by close
        self._rest = bytearray()
        self._item: list[bytes] = []
        self._item_size = 0
        self._count = 0
        self._depth = 0
        self._is_in_items = self._has_items = False
        self._is_in_string = self._is_escaped = False

    def close(self) -> None:
        """Drop the file."""
        self._file.close()

    def feed(self, block: bytes) -> None:
        """Take more of the document.

        Raises:
            RequestError: INVALID_FIELDS, PAYLOAD_TOO_LARGE.
            RefusedError: QUOTA_EXCEEDED.

        """
        start, position = 0, 0
        if self._is_in_string:
            position = self._string_end(block, 0)
        while not self._is_in_string:
            match = _STRUCTURE.search(block, position)
            if match is None:
                break
            position = match.end()
            match match[0]:
                case b'"':
                    position = self._string_end(block, position)
                case b"{" | b"[" as bracket:
                    start = self._open(bracket, block, start, match.start())
                case b"}" | b"]":
                    start = self._close(block, start, match.start())
                case _:
                    start = self._separate(block, start, match.start())
        self._keep(block[start:])

    def finish(self) -> bytes:
        """Return the rest of the document. Raises RequestError (INVALID_FIELDS)."""
        if self._depth or self._is_in_string:
            raise _invalid()
        return bytes(self._rest)

    def items(self) -> Iterator[NumberedLine]:
        """Yield the items with their numbers, from 1."""
        self._file.seek(0)
        for number in range(1, self._count + 1):
            (size,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            yield number, None if size == _TOO_LONG else self._file.read(size)

    def _string_end(self, block: bytes, position: int) -> int:
        """Return where the string ends that is open at a position; note whether it is still."""
        if self._is_escaped and block:
            position, self._is_escaped = position + 1, False
        end = _STRING_END.match(block, position)
        self._is_in_string = end is None
        if end is not None:
            return end.end()
        tail = block[position:]
        self._is_escaped = (len(tail) - len(tail.rstrip(b"\\"))) % 2 == 1 or self._is_escaped
        return len(block)

    def _open(self, bracket: bytes, block: bytes, start: int, at: int) -> int:
        """Go one level down; return where what is not kept yet begins."""
        self._depth += 1
        if bracket != b"[" or self._depth != _ITEMS_DEPTH:
            return start
        before = block[max(start, at - _NAME_BYTES) : at]
        if len(before) < _NAME_BYTES:
            before = bytes(self._rest[len(before) - _NAME_BYTES :]) + before
        if not _names_items(before):
            return start
        if self._has_items:
            raise RequestError("The field `items` appears twice.", Code.INVALID_FIELDS)
        self._keep(block[start:at] + b"[]")
        self._is_in_items = self._has_items = True
        return at + 1

    def _close(self, block: bytes, start: int, at: int) -> int:
        """Go one level up; return where what is not kept yet begins."""
        self._depth -= 1
        if self._depth < 0:
            raise _invalid()
        if not self._is_in_items or self._depth != _MEMBERS_DEPTH:
            return start
        if block[at : at + 1] != b"]":
            raise _invalid()
        self._keep(block[start:at])
        is_long = self._item_size > self._item_bytes_max
        if self._count or is_long or b"".join(self._item).strip():
            self._end_item()
        self._item.clear()
        self._item_size, self._is_in_items = 0, False
        return at + 1

    def _separate(self, block: bytes, start: int, at: int) -> int:
        """End an item where a comma does; return where what is not kept yet begins."""
        if not self._is_in_items or self._depth != _ITEMS_DEPTH:
            return start
        self._keep(block[start:at])
        self._end_item()
        return at + 1

    def _end_item(self) -> None:
        self._count += 1
        if self._count > self._items_max:
            raise quota_exceeded("batch_items", self._count, self._items_max)
        if self._item_size > self._item_bytes_max:
            self._file.write(_LENGTH.pack(_TOO_LONG))
        else:
            text = b"".join(self._item).strip()
            if not text:
                raise _invalid()
            self._file.write(_LENGTH.pack(len(text)))
            self._file.write(text)
        self._item.clear()
        self._item_size = 0

    def _keep(self, text: bytes) -> None:
        """Add text to the item, or to the rest; an item that is too long is only measured."""
        if not self._is_in_items:
            self._rest += text
            if len(self._rest) > REST_BYTES_MAX:
                raise RequestError(
                    f"The fields beside `items` have more than {REST_BYTES_MAX} bytes.",
                    Code.PAYLOAD_TOO_LARGE,
                )
            return
        self._item_size += len(text)
        if self._item_size > self._item_bytes_max:
            self._item.clear()
        else:
            self._item.append(text)


def _names_items(before: bytes) -> bool:
    """Tell whether what stands before a bracket ends with the name `items` and a colon."""
    name, colon, space = before.rpartition(b":")
    name = name.rstrip()
    is_named = bool(colon) and not space.strip() and name.endswith(_ITEMS)
    return is_named and not name.endswith(b"\\" + _ITEMS)


def _invalid() -> RequestError:
    return RequestError("The body is not valid JSON.", Code.INVALID_FIELDS)
