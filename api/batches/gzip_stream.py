"""Unpacks gzip in bounded steps, so that a small body that unpacks to much takes no memory."""

import zlib
from collections.abc import Iterator
from typing import Final

from shared.errors import Code, RequestError

BLOCK_BYTES: Final = 65_536
# What is unpacked in one step, so that the rest behind a short member is not copied for each one.
_STEP_BYTES: Final = 16_384
_GZIP: Final = zlib.MAX_WBITS | 16


class GzipUnpacker:
    """The members of one gzip file, which follow each other without anything between them."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(_GZIP)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Yield what more bytes unpack to, in blocks, which may be empty.

        Each step is short, so that others can run after it. Raises RequestError (INVALID_FIELDS).
        """
        for first in range(0, len(packed), _STEP_BYTES):
            yield from self._feed(packed[first : first + _STEP_BYTES])

    def _feed(self, packed: bytes) -> Iterator[bytes]:
        while True:
            if self._inflater.eof:
                # Zeros may fill up the last member.
                packed = packed.lstrip(b"\0")
                if not packed:
                    return
                self._inflater = zlib.decompressobj(_GZIP)
            block = self._unpack(packed)
            yield block
            packed = self._inflater.unused_data or self._inflater.unconsumed_tail
            if not packed and len(block) < BLOCK_BYTES:
                return

    def finish(self) -> None:
        """Raise RequestError where the last member is not whole."""
        if not self._inflater.eof:
            raise RequestError("The body's gzip is cut off.", Code.INVALID_FIELDS)

    def _unpack(self, packed: bytes) -> bytes:
        try:
            return self._inflater.decompress(packed, BLOCK_BYTES)
        except zlib.error:
            raise RequestError("The body is not valid gzip.", Code.INVALID_FIELDS) from None
