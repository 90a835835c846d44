"""The janitor: once its supervisor is gone, however it went, nothing stays behind.

A program, `python -m deploy.local.janitor (--in PARENT | --folder FOLDER) [COMMAND...]`. Owns the
process group in which all children of a supervisor are born, and a private folder (0700) that it
makes in PARENT and removes; with `--folder` it takes over what an earlier janitor made. Standard
input is a socket to the supervisor: READY and the folder's path in a line; then it waits for the
end of the line, kills the group, runs COMMAND, removes the folder and says DONE. Refuses to end
anything in order: that is the supervisor's work, done before it hangs up; who is left by then is
killed, which Pollux must survive anyway.

DESIGN. A child joins the group between fork and exec, so there is no moment in which it belongs to
nobody. A group's leader cannot leave it, so the sweeping is done by a fork that moved out first;
the leader is killed with the rest, and sweeps again should its fork be killed. Only the standard
library is imported: the janitor must be there before anything else is, and costs next to nothing.
The folder's name is random and appears nowhere before the folder exists, so nobody else on the
machine can make it first.
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
# Killed processes that nobody reaps stay in their group for ever: then the group is not waited for.
_GONE_SECONDS_MAX: Final = 0.5


def main(option: str, path: Path, command: list[str]) -> None:
    """Wait for the supervisor's end, then sweep. Raises OSError for a folder that is not ours."""
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
    """Refuse a folder that others can reach. Raises PermissionError."""
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
    # A supervisor that is killed with our greeting unread resets the line instead of ending it.
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
    # What was being written when its writer was killed may appear behind our back.
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
