"""Program that cleans up once its supervisor is gone, even if the supervisor was killed.

`python -m deploy.local.janitor (--in PARENT | --folder FOLDER) [COMMAND...]`. Owns the process
group that all children of a supervisor belong to, and a private folder (mode 0700) that it creates
in PARENT and removes at the end; with `--folder` it takes over the folder of an earlier janitor.

Its standard input is a socket to the supervisor. The janitor writes one line, READY and the
folder's path, and reads until the supervisor closes the socket. Then it kills the group, runs
COMMAND, removes the folder and writes DONE. Refuses to stop children gracefully: the supervisor
does that before it closes the socket. Whatever still runs then is killed, which Pollux must
survive anyway.

DESIGN. A child joins the group between fork and exec, so at every moment it belongs to the group.
A group's leader cannot leave its group, so the janitor forks a sweeper, which leaves the group and
then kills it. The leader dies with the group; if the sweeper is killed first, the leader forks
another. The janitor imports the standard library only: it starts before everything else, and must
start fast. The folder's name is random and unknown before the folder exists, so no other user of
the machine can create it first.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

READY: Final = b"ready "
DONE: Final = b"done"

_SUPERVISOR_FD: Final = 0
_NAME_BYTES: Final = 8
_PRIVATE: Final = 0o700
_PAUSE_SECONDS: Final = 0.01
_REMOVALS_MAX: Final = 100
# A killed process that nobody reaps stays in its group for ever, so the wait has an end.
_GONE_SECONDS_MAX: Final = 0.5


def main(option: str, path: Path, command: list[str]) -> None:
    """Wait until the supervisor is gone, then sweep. Raises OSError for a folder not our own."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    folder = path if option == "--folder" else _make_in(path)
    _check(folder)
    _send(READY + os.fsencode(folder) + b"\n")
    _wait_for_hangup()
    group = os.getpgrp()
    while (sweeper := os.fork()) != 0:
        os.waitpid(sweeper, 0)
    os.setpgid(0, 0)
    _sweep(group, folder, command)


def _make_in(parent: Path) -> Path:
    folder = parent / f"pollux-{os.urandom(_NAME_BYTES).hex()}"
    folder.mkdir(mode=_PRIVATE)
    return folder


def _check(folder: Path) -> None:
    """Refuse a folder that other users can read or write. Raises PermissionError."""
    found = folder.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == _PRIVATE
    if not is_private or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is not a private folder of this user")


def _sweep(group: int, folder: Path, command: list[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    _wait_until_gone(group)
    if command:
        subprocess.run(command, check=False)
    _remove(folder)
    _send(DONE)
    os._exit(0)


def _wait_for_hangup() -> None:
    # If a supervisor is killed before it has read READY, the socket is reset instead of closed.
    with contextlib.suppress(ConnectionResetError):
        while os.read(_SUPERVISOR_FD, 64):
            pass


def _wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + _GONE_SECONDS_MAX
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(_PAUSE_SECONDS)


def _remove(folder: Path) -> None:
    # A file that a killed process was just creating may appear during the removal.
    for _ in range(_REMOVALS_MAX):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_PAUSE_SECONDS)


def _send(word: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        os.write(_SUPERVISOR_FD, word)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
