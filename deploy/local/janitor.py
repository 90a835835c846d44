"""The janitor: once its supervisor is gone, however it went, nothing stays behind.

A program of its own, `python -m deploy.local.janitor FOLDER [COMMAND...]`. Owns the process group
in which all children of a supervisor are born, and FOLDER, which it makes (0700) and removes.
Standard input is a socket to the supervisor: READY when the folder is there; then it waits for the
end of the line, kills the group, runs COMMAND, removes FOLDER and says DONE. Refuses to end
anything in order: that is the supervisor's work, done before it hangs up; who is left by then is
killed, which Pollux must survive anyway.

DESIGN. A child joins the group between fork and exec, so there is no moment in which it belongs to
nobody. A group's leader cannot leave it, so the sweeping is done by a fork that moved out first;
the leader is killed with the rest, and sweeps again should its fork be killed. Only the standard
library is imported: the janitor must be there before anything else is, and costs next to nothing.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

READY: Final = b"ready"
DONE: Final = b"done"

_LINE: Final = 0
_PAUSE_SECONDS: Final = 0.01
_REMOVALS_MAX: Final = 100
# Killed processes that nobody reaps stay in their group for ever: then the group is not waited for.
_GONE_SECONDS_MAX: Final = 0.5


def main(folder: Path, command: list[str]) -> None:
    """Wait for the supervisor's end, then sweep."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    folder.mkdir(mode=0o700, exist_ok=True)
    _say(READY)
    _wait_for_hangup()
    group = os.getpgrp()
    while (sweeper := os.fork()) != 0:
        os.waitpid(sweeper, 0)
    os.setpgid(0, 0)
    _sweep(group, folder, command)


def _sweep(group: int, folder: Path, command: list[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    _wait_until_gone(group)
    if command:
        subprocess.run(command, check=False)
    _remove(folder)
    _say(DONE)
    os._exit(0)


def _wait_for_hangup() -> None:
    # A supervisor that is killed with our greeting unread resets the line instead of ending it.
    with contextlib.suppress(ConnectionResetError):
        while os.read(_LINE, 64):
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


def _say(word: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        os.write(_LINE, word)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
