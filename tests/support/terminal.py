"""A command in a terminal of its own: what is typed into it, and what its screen shows.

Owns as much of a terminal as progress bars use: carriage returns, erased lines, the cursor moving
up. Colours and other sequences are left out of the text.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.support import waiting

_SIZE: Final = (40, 100)
_READ_BYTES: Final = 65_536
_TOKEN: Final = re.compile(
    r"\x1b\[(\d*)([A-Za-z])|\x1b\[[?<>][\d;]*[A-Za-z]|\x1b\[[\d;]*m|[\r\n]|[^\x1b\r\n]+|\x1b"
)


class Terminal:
    """A running command. A context manager: leaving it kills the command."""

    def __init__(self, words: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self._outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", *_SIZE, 0, 0))
        self._process = subprocess.Popen(
            words,
            cwd=cwd,
            env={"TERM": "xterm-256color", **environment},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            # The terminal's own session, so that Ctrl-C reaches the command.
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no threads run here
        )
        os.close(inner)
        self._lines = [""]
        self._row = self._column = 0
        self._torn = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._outer)

    @property
    def screen(self) -> str:
        """All lines that it shows, without blanks at their ends."""
        self._read()
        return "\n".join(line.rstrip() for line in self._lines).rstrip() + "\n"

    @property
    def has_ended(self) -> bool:
        """Whether the command has ended."""
        # What is not read would hold the command up.
        self._read()
        return self._process.poll() is not None

    def type(self, text: str) -> None:
        """Type a text; the character with the code 3 is Ctrl-C."""
        os.write(self._outer, text.encode())

    def wait_for(self, is_shown: Callable[[str], object], seconds: float = 20.0) -> str:
        """Wait until the screen is as wanted, and return it."""
        waiting.until_now(lambda: is_shown(self.screen), seconds, what=f"in {self.screen}")
        return self.screen

    def wait_until_ended(self, seconds: float = 20.0) -> int:
        """Return the exit code."""
        waiting.until_now(lambda: self.has_ended, seconds, what="the end")
        return self._process.wait()

    def _read(self) -> None:
        while select.select([self._outer], [], [], 0)[0]:
            try:
                received = os.read(self._outer, _READ_BYTES)
            except OSError:
                # Linux says so when the command has closed its side.
                return
            self._show(self._torn + received.decode(errors="replace"))

    def _show(self, text: str) -> None:
        # A sequence whose end has not arrived yet is kept for the next time.
        cut = text.rfind("\x1b")
        is_torn = cut >= 0 and not re.match(r"\x1b\[[?<>]?[\d;]*[A-Za-z]", text[cut:])
        text, self._torn = (text[:cut], text[cut:]) if is_torn else (text, "")
        for token in _TOKEN.finditer(text):
            if token[2] is not None:
                self._control(token[2], int(token[1] or 1))
            elif token[0] == "\r":
                self._column = 0
            elif token[0] == "\n":
                self._row += 1
                self._lines += [""] * (self._row + 1 - len(self._lines))
            elif not token[0].startswith("\x1b"):
                line = self._lines[self._row].ljust(self._column)
                end = self._column + len(token[0])
                self._lines[self._row] = line[: self._column] + token[0] + line[end:]
                self._column = end

    def _control(self, name: str, count: int) -> None:
        if name == "A":
            self._row = max(0, self._row - count)
        elif name == "K":
            self._lines[self._row] = ""
