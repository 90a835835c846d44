"""Where answers are written: a file that says by itself how far it is, or standard output.

Owns the position: each line of the file carries its `batch_id` and `line` (and `seq` in the order
of finishing), so that a run that was killed goes on after the last whole line. A torn last line is
cut. Refuses a file with anything else in it. No state is kept anywhere else.

DESIGN. A line is written once it has arrived whole and comes after the last one, so a repeated
part of a stream adds nothing. Blank lines of the prompts have a number and no answer, so whether
all answers are there is a matter of their count.
"""

import fcntl
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal, TextIO, cast

import msgspec

from deploy.batch.wire import Answer, Counts, decode_answer
from shared.errors import Code, RequestError, UnavailableError

Order = Literal["input", "finished"]

_FAILURES_KEPT: Final = 5
_BEGINNING: Final = b'{"batch_id":"'


class Answers:
    """The answers of one batch, written in one order."""

    def __init__(self, stream: BinaryIO, order: Order, path: Path | None = None) -> None:
        self.path = path
        self.order: Order = order
        # None as long as no line says whose answers these are.
        self.batch_id: str | None = None
        self.line = 0
        self.seq = 0
        self.states: Counter[str] = Counter()
        self.failures: list[Answer] = []
        self.is_continued = False
        self._stream = stream
        self._is_to_replace = False

    @property
    def params(self) -> dict[str, str | int]:
        """The parameters with which the API continues after the last line."""
        after: dict[str, str | int] = (
            {"after_line": self.line} if self.order == "input" else {"after_seq": self.seq}
        )
        return {"order": self.order, **after}

    @property
    def count(self) -> int:
        """How many lines there are."""
        return self.states.total()

    def replace(self) -> None:
        """Take the place of what is in the file, once the API has answered: not for a mistake."""
        self._is_to_replace = True

    def begin(self, batch_id: str) -> None:
        """Take lines of this batch from now on."""
        self.batch_id = batch_id

    def write(self, lines: Iterable[bytes]) -> None:
        """Write lines as the API sends them, with the batch's id."""
        prefix = _BEGINNING + f'{self.batch_id}",'.encode()
        pieces: list[bytes] = []
        for line in filter(None, lines):
            try:
                answer = decode_answer(line)
            except msgspec.MsgspecError:
                raise UnavailableError("The API does not answer as Pollux does.") from None
            if self._follows(answer):
                self._count(answer)
                pieces += (prefix, line[line.index(b"{") + 1 :], b"\n")
        self._truncate()
        self._stream.write(b"".join(pieces))
        self._stream.flush()

    def lacks(self, counts: Counts) -> bool:
        """Return whether items have ended in another way since they were written: by a retry."""
        return self.order == "input" and any(
            self.states[name] != getattr(counts, name)
            for name in ("completed", "failed", "cancelled", "expired")
        )

    def save(self) -> None:
        """Make sure that what was written outlives the machine."""
        self._truncate()
        if self.path is not None:
            os.fsync(self._stream.fileno())

    def _truncate(self) -> None:
        if self._is_to_replace:
            self._is_to_replace = False
            self._stream.truncate(0)

    def scan(self, path: Path) -> int:
        """Read the lines that are there; return where the last whole one ends.

        Raises:
            RequestError: the file has other lines than answers of one batch in this order.

        """
        end = 0
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    _check_torn(path, number, raw)
                    break
                self._read_own(path, number, raw)
                end += len(raw)
        self.is_continued = end > 0
        return end

    def _read_own(self, path: Path, number: int, raw: bytes) -> None:
        try:
            answer = decode_answer(raw)
        except msgspec.MsgspecError:
            raise _foreign(path, number) from None
        if not answer.batch_id or answer.batch_id != (self.batch_id or answer.batch_id):
            raise _foreign(path, number)
        if (answer.seq is None) != (self.order == "input"):
            other = "input" if self.order == "finished" else "finished"
            raise RequestError(
                f"{path} was begun with `--order {other}`: continue it so, or choose another file.",
                Code.INVALID_FIELDS,
            )
        if not self._follows(answer):
            raise _foreign(path, number)
        self.batch_id = answer.batch_id
        self._count(answer)

    def _follows(self, answer: Answer) -> bool:
        """Return whether a line comes after the last one, in this order."""
        if self.order == "finished":
            return answer.seq is not None and answer.seq > self.seq
        return answer.line > self.line

    def _count(self, answer: Answer) -> None:
        self.line, self.seq = answer.line, answer.seq or 0
        self.states[answer.state] += 1
        # In the order of finishing, an item that was run again has another line, which counts.
        self.failures = [each for each in self.failures if each.line != answer.line]
        if answer.state != "completed" and len(self.failures) < _FAILURES_KEPT:
            self.failures.append(answer)


@contextmanager
def answer_file(path: Path | None, order: Order, *, overwrite: bool) -> Iterator[Answers]:
    """Open a file of answers after its last whole line; standard output without a path.

    With `overwrite`, what is in the file stays until there is something to write.

    Raises:
        RequestError: it has other content, or another command writes it.

    """
    if path is None:
        # None if it was closed before the command started.
        stdout = cast("TextIO | None", sys.stdout)
        if stdout is None:
            raise RequestError("Standard output is closed.", Code.MISSING_FIELDS)
        yield Answers(stdout.buffer, order)
        return
    if path.exists() and not path.is_file():
        # A pipe or a device, which remembers nothing.
        with path.open("wb") as stream:
            yield Answers(stream, order)
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "r+b") as file:
        _lock(path, file)
        answers = Answers(file, order, path)
        if overwrite:
            answers.replace()
        else:
            end = answers.scan(path)
            file.truncate(end)
            file.seek(end)
        yield answers


@contextmanager
def replacement(path: Path, batch_id: str) -> Iterator[Answers]:
    """Open a new file that takes the place of `path` when the context ends without an error.

    As few may read it as the one before; where that is a symbolic link, the link stays.
    """
    path = path.resolve()
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
        answers = Answers(file, "input", new)
        answers.begin(batch_id)
        yield answers
        answers.save()
    new.replace(path)


def _lock(path: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RequestError(f"Another command is writing {path}.", Code.INVALID_FIELDS) from None


def _check_torn(path: Path, number: int, raw: bytes) -> None:
    """Refuse a last line that no killed run has left. Raises RequestError."""
    # After a power failure its bytes may be zeros.
    begins = raw.rstrip(b"\0")[: len(_BEGINNING)]
    if not _BEGINNING.startswith(begins):
        raise _foreign(path, number)


def _foreign(path: Path, number: int) -> RequestError:
    return RequestError(
        f"{path} has other content: its line {number} is not the next answer of one batch. Choose "
        "another file, or replace this one with --overwrite.",
        Code.INVALID_FIELDS,
    )
