"""Counts the unfinished tasks and the objects of a process, from a thread inside it.

The thread writes both to a file once a second. As a program it starts the probe in another one:
`python -m tests.soak.process_probe FILE api --port 8000`.
"""

import asyncio
import gc
import runpy
import sys
import threading
from pathlib import Path
from typing import Final

_EVERY_SECONDS: Final = 1.0
# Objects that the garbage collector tracks: a count that is comparable over time.
_LINE: Final = "{tasks} {objects}\n"


def plant(path: str) -> None:
    """Start the thread."""
    threading.Thread(target=_write_counts, args=(Path(path),), daemon=True).start()


def _write_counts(path: Path) -> None:
    pause = threading.Event()
    while True:
        objects = gc.get_objects()
        tasks = sum(isinstance(each, asyncio.Task) and not each.done() for each in objects)
        written = path.with_suffix(".new")
        written.write_text(_LINE.format(tasks=tasks, objects=len(objects)))
        written.rename(path)
        del objects
        pause.wait(_EVERY_SECONDS)


def read_counts(path: Path) -> tuple[int, int] | None:
    """Return the last counts of tasks and objects; None before the first."""
    if not path.exists():
        return None
    tasks, objects = path.read_text().split()
    return int(tasks), int(objects)


if __name__ == "__main__":
    _, where, program, *words = sys.argv
    plant(where)
    sys.argv = [program, *words]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
