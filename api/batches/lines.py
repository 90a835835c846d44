"""Cuts lines from blocks of bytes; a line that is too long is counted, and not kept."""

from collections.abc import Iterator

# A line's number in the file, from 1, and its bytes; None where it is too long.
NumberedLine = tuple[int, bytes | None]


class LineCutter:
    """The lines of one body. Lines without anything but white space count, and are left out."""

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._number = 0
        self._pieces: list[bytes] = []
        self._size = 0

    def cut(self, block: bytes) -> Iterator[NumberedLine]:
        """Yield the lines that end in a block."""
        *ended, rest = block.split(b"\n")
        for piece in ended:
            if self._size:
                self._add(piece)
                yield from self._end()
            else:
                self._number += 1
                if piece and not piece.isspace():
                    is_kept = len(piece) <= self._line_bytes_max
                    yield self._number, piece if is_kept else None
        self._add(rest)

    def finish(self) -> Iterator[NumberedLine]:
        """Yield the last line, if the body does not end with a line end."""
        yield from self._end()

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._line_bytes_max:
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def _end(self) -> Iterator[NumberedLine]:
        self._number += 1
        is_kept = self._size <= self._line_bytes_max
        line = b"".join(self._pieces) if is_kept else None
        self._pieces.clear()
        self._size = 0
        if line is None or not (line.isspace() or not line):
            yield self._number, line
