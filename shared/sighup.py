"""What SIGHUP means to a process: reload, or end because its terminal has gone.

The kernel sends the same signal for both. A process that was started in a terminal tests whether
that terminal is still there; one that never had a terminal reloads.
"""

import os
import signal
from collections.abc import Callable
from typing import Final

_STANDARD_STREAMS: Final = (0, 1, 2)


class Sighup:
    """Decides at each SIGHUP; make it at the start, while the terminal (if any) is still there."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._terminals = [number for number in _STANDARD_STREAMS if os.isatty(number)]

    def reload_or_end(self) -> None:
        """Reload, or send this process SIGTERM."""
        if self.is_terminal_gone():
            signal.raise_signal(signal.SIGTERM)
        else:
            self._reload()

    def is_terminal_gone(self) -> bool:
        """Tell whether this process had a terminal that has gone."""
        return bool(self._terminals) and not any(map(os.isatty, self._terminals))
