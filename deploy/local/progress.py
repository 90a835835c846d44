"""Prints progress while the system starts and runs: lines, and one live line on a terminal.

Everything goes to one text stream and is flushed at once, so that a pipe gets it in time too.
"""

from typing import Final, TextIO

_CLEAR: Final = "\r\x1b[K"
# In a pipe no line can be overwritten, so the waiting line is printed only this often.
_PRINT_EVERY_SECONDS: Final = 2.0


class Progress:
    """Prints to a terminal or a pipe. `waiting` may be called often."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._has_live_line = False
        self._printed_at_seconds = 0.0

    def line(self, text: str = "") -> None:
        """Print a line, in the place of the live line if there is one."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def waiting(self, names: list[str], seconds: float) -> None:
        """Show which children are not ready yet, and for how long the start has waited."""
        text = f"  waiting for {', '.join(names)} ... {seconds:.0f} s"
        if self._is_terminal:
            self._clear()
            print(text, end="", file=self._stream, flush=True)
            self._has_live_line = True
            return
        if seconds < self._printed_at_seconds:
            self._printed_at_seconds = 0.0
        if seconds - self._printed_at_seconds >= _PRINT_EVERY_SECONDS:
            self._printed_at_seconds = seconds
            self.line(text)

    def _clear(self) -> None:
        if self._has_live_line:
            print(_CLEAR, end="", file=self._stream)
            self._has_live_line = False
