"""Standard error behind a bounded buffer, so that a blocked log blocks no request.

Owns the buffer and the thread that writes it to file descriptor 2. A log call appends and returns:
a closed reader, a full disk or a full pipe cost log lines, never a request. Dropped lines are
counted, and the count is logged in their place once there is room again.

DESIGN. The writer gathers for 10 ms and writes everything in one call, so a busy process pays one
system call for many lines; a SIGKILL loses what was gathered. Both the gathered lines and those
being written are limited in bytes. A batch is written in pieces of whole lines, and after a failure
the rest is retried after 0.05 s, then less often, up to once a second. Only `flush` waits for the
writer, within a limit.
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
    """A file descriptor behind a bounded buffer. `notice` renders the line about dropped lines."""

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
        """How many lines were dropped since the process began."""
        return self._dropped

    def write(self, line: bytes) -> None:
        """Buffer a line with its line end, or count it as dropped. Never blocks, never raises."""
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
        """Wait until the buffered lines are written, within a limit; return whether they are.

        A failing sink is tried once more, and not waited for.
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
        """Start the writer thread; after a fork there is none yet."""
        if self._writer is None or not self._writer.is_alive():
            self._writer = threading.Thread(target=self._run, name="log writer", daemon=True)
            # An interpreter that is shutting down starts no threads.
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
        """Write a piece, however many calls that takes."""
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
    """Replaces `sys.stderr`: passes text to the sink line by line."""

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
        """Pass on an unfinished line."""
        if self._partial_line:
            self.write("\n")


def replace_stderr() -> None:
    """Send all that this process writes to standard error through the sink.

    Called at a program's very start; the rest is written at exit, within a limit.
    """
    if isinstance(sys.stderr, Stderr):
        return
    if sys.stderr is None:
        # Standard error was closed; otherwise the next file opened would become descriptor 2.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)
    stream = sys.stderr = Stderr(STDERR)

    def finish() -> None:
        stream.end_line()
        STDERR.flush()

    atexit.register(finish)


def _pieces(lines: list[bytes]) -> list[bytes]:
    """Join lines to pieces of about 64 KiB that cut no line."""
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
