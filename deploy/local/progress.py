"""What a person sees while the system starts and runs: lines, and one live line on a terminal.

Everything goes to one text stream, flushed at once, so that it is also right in a pipe.
"""

from typing import Final, TextIO

_CLEAR: Final = "\r\x1b[K"
# In a pipe nothing can be overwritten, so waiting is told seldom.
_PRINT_EVERY_SECONDS: Final = 2.0


class Progress:
    """A quiet teller. `waiting` may be called often."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._has_live_line = False
        self._printed_at_seconds = 0.0

    def line(self, text: str = "") -> None:
        """Print a line that stays."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def waiting(self, names: list[str], seconds: float) -> None:
        """Say for what and for how long the start has been waiting."""
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
