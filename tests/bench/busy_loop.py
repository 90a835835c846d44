"""A program that benches start: it takes a share of one core, and does nothing else.

Each line of its standard input is the share, from 0 to 1, until the next line. Ends with its input.
"""

import sys
import threading
import time
from typing import Final

from tests.bench.peers import contract

_PERIOD_SECONDS: Final = 0.01


class _Share:
    """The share of the core that is taken now."""

    def __init__(self) -> None:
        self.value = 0.0
        self.has_changed = threading.Event()

    def read(self) -> None:
        """Read shares until the input ends."""
        while line := sys.stdin.readline():
            self.value = float(line)
            self.has_changed.set()
            contract.print_line(self.value)


def _burn(share: _Share) -> None:
    while True:
        if not share.value:
            share.has_changed.wait()
        share.has_changed.clear()
        busy = share.value * _PERIOD_SECONDS
        began = time.thread_time()
        while time.thread_time() - began < busy:
            pass
        share.has_changed.wait(_PERIOD_SECONDS - busy)


if __name__ == "__main__":
    wanted = _Share()
    threading.Thread(target=_burn, args=(wanted,), daemon=True).start()
    wanted.read()
