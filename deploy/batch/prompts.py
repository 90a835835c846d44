"""A file of prompts, read as the JSONL that is uploaded: JSONL as it stands, CSV, or plain lines.

Owns what is checked before anything is sent: the encoding, and a CSV's header and rows. Whether a
line is a valid item is for the API to say, which reports it as a failed item.

DESIGN. The file is read twice: for the fingerprint, which names the batch, and for the upload,
which compares it. Both read it in pieces, so that memory does not grow with the file.
"""

import codecs
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, TextIO, cast

import msgspec

from deploy.batch import csv_prompts
from shared.errors import Code, RequestError

Format = Literal["jsonl", "csv", "lines"]

_BY_SUFFIX: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".txt": "lines",
}
_PIECE_BYTES: Final = 262_144
# More than any model reads.
_LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_OTHER_ENCODINGS: Final = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Fingerprint(NamedTuple):
    """What names a batch (the content as sent, and the options), and how large it is."""

    digest: str
    size: int
    items: int


class Prompts(NamedTuple):
    """A file of prompts. `name` is what messages call it; `template` and `delimiter` are of CSV."""

    path: Path
    name: str
    format: Format
    template: str | None = None
    delimiter: str = ","

    def pieces(self) -> Iterator[bytes]:
        """Yield the JSONL that is sent, in pieces. Raises RequestError if it cannot be read."""
        self._check_encoding()
        if self.format == "jsonl":
            yield from self._jsonl()
            return
        lines = self._plain_lines() if self.format == "lines" else self._csv_lines()
        piece = bytearray()
        for custom_id, message in lines:
            piece += msgspec.json.encode({"custom_id": custom_id, "message": message}) + b"\n"
            if len(piece) >= _PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece)

    def lines(self) -> Iterator[bytes]:
        """Yield the JSONL that is sent, line by line; a line beyond 16 MiB as an empty one."""
        rest = bytearray()
        for piece in self.pieces():
            rest += piece
            *whole, last = bytes(rest).split(b"\n")
            yield from whole
            rest = bytearray(last if len(last) <= _LINE_BYTES_MAX else b"")
        if rest:
            yield bytes(rest)

    def fingerprint(self, options: object, on_read: Callable[[int], None]) -> Fingerprint:
        """Read the whole file. `on_read` gets how many bytes are read so far."""
        digest = new_digest(options)
        size = items = 0
        last = b"\n"
        for piece in filter(None, self.pieces()):
            digest.update(piece)
            size += len(piece)
            items += piece.count(b"\n")
            last = piece
            on_read(size)
        items += not last.endswith(b"\n")
        if not items:
            raise RequestError(f"{self.name} has no prompts.", Code.MISSING_FIELDS)
        return Fingerprint(digest.hexdigest(), size, items)

    def _check_encoding(self) -> None:
        with self.path.open("rb") as file:
            start = file.read(4)
        for mark, encoding in _OTHER_ENCODINGS.items():
            if start.startswith(mark):
                raise _undecodable(f"{self.name} is {encoding} text", self.name, encoding)

    def _jsonl(self) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        newlines = 0
        with self.path.open("rb") as file:
            piece = file.read(_PIECE_BYTES).removeprefix(codecs.BOM_UTF8)
            while piece:
                following = file.read(_PIECE_BYTES)
                try:
                    decoder.decode(piece, final=not following)
                except UnicodeDecodeError as error:
                    line = newlines + error.object.count(b"\n", 0, error.start) + 1
                    raise _undecodable(
                        f"Line {line} of {self.name} is not UTF-8 text", self.name
                    ) from None
                newlines += piece.count(b"\n")
                yield piece
                piece = following

    def _plain_lines(self) -> Iterator[tuple[str, str]]:
        """Yield each line that is not blank, with its number."""
        with self.path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(_LINE_BYTES_MAX), b""), 1):
                if len(raw) == _LINE_BYTES_MAX:
                    raise RequestError(
                        f"Line {number} of {self.name} is longer than 16 MiB.", Code.INVALID_FIELDS
                    )
                try:
                    text = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode()
                except UnicodeDecodeError:
                    raise _undecodable(
                        f"Line {number} of {self.name} is not UTF-8 text", self.name
                    ) from None
                if text.strip():
                    yield str(number), text.rstrip("\r\n")

    def _csv_lines(self) -> Iterator[tuple[str, str]]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv_prompts.read(file, self.name, self.template, self.delimiter)
        except UnicodeDecodeError:
            raise _undecodable(f"{self.name} is not UTF-8 text", self.name) from None


def new_digest(options: object) -> "hashlib._Hash":
    """Return the digest of a batch whose content has not been read yet."""
    return hashlib.sha256(msgspec.json.encode(options, order="sorted") + b"\n")


@contextmanager
def opened(
    source: str, file_format: Format | None, template: str | None, delimiter: str
) -> Iterator[Prompts]:
    """Return the prompts of a file, or of standard input for `-`, which is copied to a file first.

    Raises:
        RequestError: the file is not there, its format is unknown, or options do not fit it.

    """
    known = file_format or _BY_SUFFIX.get(Path(source).suffix.lower())
    if known is None:
        raise RequestError(
            f"Say how to read {'standard input' if source == '-' else source}: --format jsonl, csv "
            "or lines.",
            Code.MISSING_FIELDS,
        )
    if template is not None and known != "csv":
        raise RequestError("--template is for the columns of a CSV.", Code.INVALID_FIELDS)
    if source != "-":
        path = Path(source)
        if path.exists() and not path.is_file():
            raise RequestError(
                f"{source} is no regular file; pipe it in, with `-`.", Code.INVALID_FIELDS
            )
        yield Prompts(path, source, known, template, delimiter)
        return
    # None if standard input was closed before the command started.
    stdin = cast("TextIO | None", sys.stdin)
    if stdin is None:
        raise RequestError("Standard input is closed.", Code.MISSING_FIELDS)
    with tempfile.NamedTemporaryFile(prefix="pollux-batch-") as spool:
        shutil.copyfileobj(stdin.buffer, spool)
        spool.flush()
        yield Prompts(Path(spool.name), "standard input", known, template, delimiter)


def _undecodable(fault: str, name: str, encoding: str = "ENCODING") -> RequestError:
    return RequestError(
        f"{fault}; convert it first, as in `iconv -f {encoding} -t UTF-8 {name}`.",
        Code.INVALID_FIELDS,
    )
