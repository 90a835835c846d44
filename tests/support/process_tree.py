"""Lists the child processes of a process.

Reads /proc where it exists, else runs `ps`. A killed process that has not been reaped yet (state Z)
counts as ended, and so does one that has lost its command line: it is about to.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Member(NamedTuple):
    """A process: its parent, its process group and its command line."""

    pid: int
    parent: int
    group: int
    command: str


def members(parent: int) -> list[Member]:
    """Return the running children of a process."""
    return [found for found in _all() if found.parent == parent]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    return any(found.pid == pid for found in _all())


def _all() -> list[Member]:
    return _from_proc() if (_PROC / "self").exists() else _from_ps()


def _from_proc() -> list[Member]:
    found = []
    for folder in _PROC.glob("[0-9]*"):
        try:
            state, parent, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        if state != "Z" and command:
            found.append(Member(int(folder.name), int(parent), int(group), command))
    return found


def _from_ps() -> list[Member]:
    columns = "pid=,ppid=,pgid=,stat=,args="
    text = subprocess.run(["ps", "-A", "-o", columns], capture_output=True, text=True, check=True)
    rows = [line.split(None, 4) for line in text.stdout.splitlines()]
    return [
        Member(int(row[0]), int(row[1]), int(row[2]), row[4])
        for row in rows
        if len(row) == 5 and not row[3].startswith("Z")
    ]
