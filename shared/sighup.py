"""SIGHUP: a word to read anew, or the end of the terminal that a process was started in.

Owns telling the two apart: the kernel sends the same signal to those whose terminal goes away,
which can be seen by asking the terminal. A process that never had one only reads anew.
"""

import os
import signal
from collections.abc import Callable
from typing import Final

_STANDARD_STREAMS: Final = (0, 1, 2)


class Sighup:
    """What a process does at a hang-up; made while its terminal, if it has one, is still there."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._terminals = [number for number in _STANDARD_STREAMS if os.isatty(number)]

    def reload_or_end(self) -> None:
        """Read anew, or ask this process to end."""
        if self.is_terminal_gone():
            signal.raise_signal(signal.SIGTERM)
        else:
            self._reload()

    def is_terminal_gone(self) -> bool:
        """Tell whether there was a terminal, and it is gone."""
        return bool(self._terminals) and not any(map(os.isatty, self._terminals))
