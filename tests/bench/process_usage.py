"""CPU time and memory of processes, from /proc; 0 where it does not exist."""

import os
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have taken so far, with their ended children."""
    ticks = 0
    for pid in pids:
        # User and system, of itself and of the children; a server rewrites its file in a child.
        fields = _read(pid, "stat").rpartition(") ")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    fields = _read(pid, "statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def reset_peak(pid: int) -> None:
    """Let the peak of a process' memory begin at what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")


def peak_bytes(pid: int) -> int:
    """Return the peak of a process' resident memory."""
    lines = _read(pid, "status").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")
    except OSError:
        return ""
