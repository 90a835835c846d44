"""What only a process itself knows: how many tasks are not done, how many objects it holds.

Owns a thread that writes both into a file, once a second. Run as a program it plants itself in
another: `python -m tests.soak.process_probe FILE api --port 8000`.
"""

import asyncio
import gc
import runpy
import sys
import threading
from pathlib import Path
from typing import Final

_EVERY_SECONDS: Final = 1.0
# The collector's own count is of tracked objects: as good as any, and the same from look to look.
_LINE: Final = "{tasks} {objects}\n"


def plant(path: str) -> None:
    """Begin to tell."""
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
    """Return tasks and objects as they were last told; None before the first time."""
    if not path.exists():
        return None
    tasks, objects = path.read_text().split()
    return int(tasks), int(objects)


if __name__ == "__main__":
    _, where, program, *words = sys.argv
    plant(where)
    sys.argv = [program, *words]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
