"""Cuts lines from blocks of bytes; a line that is too long is counted, and not kept.

Blank lines count, and are left out. A run of them costs no more than its bytes.
"""

import re
from collections.abc import Iterator
from typing import Final

# A line's number in the file, from 1, and its bytes; None where it is too long.
NumberedLine = tuple[int, bytes | None]
_find_text: Final = re.compile(rb"\S").search
# In a block of 64 KiB: so many lines are cut in half a millisecond.
_FEW_LINES: Final = 4_096


class LineCutter:
    """The lines of one body; `number` is how many have ended."""

    def __init__(self, line_bytes_max: int) -> None:
        self.number = 0
        self._line_bytes_max = line_bytes_max
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_blank = True

    def cut(self, block: bytes) -> Iterator[NumberedLine]:
        """Yield the lines that end in a block."""
        start = 0
        if self._size:
            start = block.find(b"\n") + 1
            self._add(block[: start - 1] if start else block)
            if not start:
                return
            yield from self._end()
        last = block.rfind(b"\n") + 1
        cut = self._cut_each if block.count(b"\n") <= _FEW_LINES else self._cut_with_text
        yield from cut(block[start:last])
        self._add(block[max(start, last) :])

    def _cut_each(self, text: bytes) -> Iterator[NumberedLine]:
        """Yield the lines of a text that ends with one, or is empty."""
        for line in text.split(b"\n")[:-1]:
            self.number += 1
            if line and not line.isspace():
                yield self.number, line if len(line) <= self._line_bytes_max else None

    def _cut_with_text(self, text: bytes) -> Iterator[NumberedLine]:
        """Yield the same without looking at each blank line: they may be very many."""
        start = 0
        while (found := _find_text(text, start)) is not None:
            first = text.rfind(b"\n", start, found.start()) + 1 or start
            self.number += 1 + text.count(b"\n", start, first)
            end = text.find(b"\n", found.start())
            start = end + 1
            yield self.number, text[first:end] if end - first <= self._line_bytes_max else None
        self.number += text.count(b"\n", start)

    def finish(self) -> Iterator[NumberedLine]:
        """Yield the last line, if the body does not end with a line end."""
        if self._size:
            yield from self._end()

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        self._is_blank = self._is_blank and (not piece or piece.isspace())
        if self._size > self._line_bytes_max:
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def _end(self) -> Iterator[NumberedLine]:
        self.number += 1
        is_kept, is_blank = self._size <= self._line_bytes_max, self._is_blank
        line = b"".join(self._pieces) if is_kept else None
        self._pieces.clear()
        self._size, self._is_blank = 0, True
        if not is_blank:
            yield self.number, line
