"""Copies of a batch's items: lines that ask for the same as an earlier line, and share its answer.

Written once, when an upload ends, and never changed: how a copy ended follows from its original.
They are stored twice, by their line and by their original, in sections of `SECTION_COPIES`; then
come `CopyPlaces`, and from `Batch.copies_chunk` on how many copies each item has, 4 bytes each, in
parts of `COUNTS_PER_PART` (batches.lua).
"""

import array
import sys
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

SECTION_COPIES: Final = 512
COUNTS_PER_PART: Final = 65_536
_LEVEL: Final = 1
_SECTION_BYTES_MAX: Final = 1024 * 1024


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """A line of the caller's file that is a copy; `original` is the index of an item."""

    custom_id: str
    line: int
    original: int


class CopyPlaces(msgspec.Struct, frozen=True, array_like=True):
    """Where sections begin: the first line of each, and the first original of each.

    The sections by line are the chunks from `first` on, and those by original follow.
    """

    first: int
    lines: list[int]
    originals: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode_section = msgspec.msgpack.Decoder(list[Copy]).decode
_decode_places = msgspec.msgpack.Decoder(CopyPlaces).decode


def pack_section(copies: list[Copy]) -> bytes:
    """Return a section as it is stored."""
    return zlib.compress(_encode(copies), _LEVEL)


def unpack_section(stored: bytes) -> list[Copy]:
    """Return the copies of a section. Raises msgspec.MsgspecError."""
    inflater = zlib.decompressobj()
    try:
        return _decode_section(inflater.decompress(stored, _SECTION_BYTES_MAX))
    except zlib.error as error:
        raise msgspec.DecodeError(str(error)) from None


def pack_places(places: CopyPlaces) -> bytes:
    """Return the places of sections as they are stored."""
    return _encode(places)


def unpack_places(stored: bytes) -> CopyPlaces:
    """Return the places of sections. Raises msgspec.MsgspecError."""
    return _decode_places(stored)


def pack_counts(counts: "array.array[int]") -> Iterator[bytes]:
    """Yield the parts of how many copies each item has as they are stored, big endian."""
    for first in range(0, len(counts), COUNTS_PER_PART):
        part = counts[first : first + COUNTS_PER_PART]
        if sys.byteorder == "little":
            part.byteswap()
        yield part.tobytes()
