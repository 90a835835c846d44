"""Standard error as a destination that can fail without anybody waiting for it.

Owns a bounded buffer and the thread that writes it to file descriptor 2. Whoever logs appends and
goes on: a reader that is gone, a full disk or a pipe that nobody reads cost log lines, never a
request. Lines that found no room are counted, and the count is logged where they are missing once
the sink takes lines again.

DESIGN. The writer gathers for 10 ms and writes all it has in one call, so a busy process pays a
system call for a batch of lines instead of one each; a SIGKILL loses what was gathered. The buffer
is limited in bytes, once for what waits and once for what is being written. A batch is written in
pieces of whole lines as far as possible, and after a failure the rest is tried again, less and less
often. The process never waits for the writer but in `flush`, which has a limit.
"""

import atexit
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from typing_extensions import override

from shared.telemetry import sanitize

BYTES_MAX: Final = 512 * 1024
FLUSH_SECONDS: Final = 1.0
_STDERR: Final = 2
_GATHER_SECONDS: Final = 0.01
_RETRY_SECONDS: Final = (0.05, 1.0)
_WRITE_BYTES: Final = 64 * 1024


class Sink:
    """A file descriptor behind a bounded buffer. `notice` makes the line that reports a gap."""

    def __init__(self, descriptor: int, *, bytes_max: int = BYTES_MAX) -> None:
        self.notice: Callable[[int], bytes] = _plain_notice
        self.descriptor = descriptor
        self._bytes_max = bytes_max
        # Reentrant: a finalizer may log while this thread holds it.
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._unreported_drops = 0
        self._is_writing = False
        self._writer: threading.Thread | None = None
        self._has_lines = threading.Event()
        self._flush_requested = threading.Event()
        # Set while nothing is left to write, and when an attempt has failed.
        self._drained = threading.Event()
        self._drained.set()

    @property
    def dropped(self) -> int:
        """How many lines found no room since the process began."""
        return self._dropped

    def write(self, line: bytes) -> None:
        """Take a line, ending included, or count it as dropped. Never waits, never raises."""
        with self._lock:
            if self._size + len(line) > self._bytes_max:
                self._dropped += 1
                self._unreported_drops += 1
                return
            is_first = not self._lines
            if self._unreported_drops:
                self._append_gap_notice()
            self._lines.append(line)
            self._size += len(line)
            if is_first:
                self._drained.clear()
                self._start()
                self._has_lines.set()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until what was taken is written, at most so long; return whether it is.

        A sink that fails is tried once more and not waited for.
        """
        with self._lock:
            if self._is_written():
                return True
            self._drained.clear()
        self._flush_requested.set()
        self._has_lines.set()
        self._drained.wait(seconds)
        return self._is_written()

    def _is_written(self) -> bool:
        return not (self._lines or self._unreported_drops or self._is_writing)

    def _append_gap_notice(self) -> None:
        missing, self._unreported_drops = self._unreported_drops, 0
        line = self.notice(missing)
        self._lines.append(line)
        self._size += len(line)

    def _start(self) -> None:
        """Start the writer; a process that was forked has none yet."""
        if self._writer is None or not self._writer.is_alive():
            self._writer = threading.Thread(target=self._run, name="log writer", daemon=True)
            # An interpreter that is shutting down starts no more threads.
            with suppress(RuntimeError):
                self._writer.start()

    def _run(self) -> None:
        while True:
            self._has_lines.wait()
            self._flush_requested.wait(_GATHER_SECONDS)
            self._flush_requested.clear()
            self._has_lines.clear()
            with self._lock:
                if self._unreported_drops:
                    self._append_gap_notice()
                batch, self._lines, self._size = self._lines, [], 0
                self._is_writing = True
            for piece in _pieces(batch):
                self._write_all(piece)
            with self._lock:
                self._is_writing = False
                if self._is_written():
                    self._drained.set()
                else:
                    self._has_lines.set()

    def _write_all(self, piece: bytes) -> None:
        """Write a piece, however often it takes; a line that was cut short is ended first."""
        pause, longest = _RETRY_SECONDS
        left = memoryview(piece)
        while left:
            try:
                left = left[os.write(self.descriptor, left) :]
            except BlockingIOError:
                select.select([], [self.descriptor], [], longest)
            except OSError:
                self._drained.set()
                self._flush_requested.wait(pause)
                self._flush_requested.clear()
                pause = min(pause * 2, longest)


class Stderr(io.TextIOBase):
    """What stands in the place of `sys.stderr`: text goes to the sink line by line."""

    def __init__(self, to: Sink) -> None:
        self._sink = to
        self._partial_line = ""
        self._lock = threading.RLock()

    @property
    @override
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a variable; it is only read
        return "utf-8"

    @property
    @override
    def errors(self) -> str:  # type: ignore[override]  # as above
        return "backslashreplace"

    @override
    def fileno(self) -> int:
        return _STDERR

    @override
    def isatty(self) -> bool:
        return os.isatty(_STDERR)

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, text: str, /) -> int:
        with self._lock:
            *lines, self._partial_line = (self._partial_line + text).split("\n")
            for line in lines:
                safe = sanitize.text(line).encode(errors="backslashreplace")
                self._sink.write(sanitize.without_keys(safe) + b"\n")
        return len(text)

    def end_line(self) -> None:
        """Pass on a line that was begun and not ended."""
        if self._partial_line:
            self.write("\n")


def replace_stderr() -> None:
    """Send all that this process writes to standard error through the sink, from here on.

    For programs, at their very start; what is left is written at exit, within a limit.
    """
    if isinstance(sys.stderr, Stderr):
        return
    if sys.stderr is None:
        # It was closed: without this, the next file that is opened would receive the log.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)
    stream = sys.stderr = Stderr(STDERR)

    def finish() -> None:
        stream.end_line()
        STDERR.flush()

    atexit.register(finish)


def _pieces(lines: list[bytes]) -> list[bytes]:
    """Join lines to pieces of about 64 KiB, none of which cuts a line."""
    pieces: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        gathered.append(line)
        size += len(line)
        if size >= _WRITE_BYTES:
            pieces.append(b"".join(gathered))
            gathered, size = [], 0
    return [*pieces, b"".join(gathered)]


def _plain_notice(missing: int) -> bytes:
    return b"%d log lines were dropped here\n" % missing


STDERR: Final = Sink(_STDERR)
