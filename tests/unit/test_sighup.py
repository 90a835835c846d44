"""SIGHUP reloads, unless the terminal has gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import waiting

_PROGRAM = """
import signal, sys
from shared.sighup import Sighup
sighup = Sighup(lambda: print("renewed", file=sys.stderr, flush=True))
signal.signal(signal.SIGHUP, lambda *_: sighup.reload_or_end())
print("ready", file=sys.stderr, flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(name="terminal")
def _terminal() -> Iterator[tuple[int, int]]:
    ends = os.openpty()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def _start(stdin: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


def test_without_a_terminal_sighup_reloads() -> None:
    with _start(subprocess.DEVNULL) as process:
        assert process.stderr is not None
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert process.stderr.readline() == "renewed\n"
        process.kill()


def test_a_process_whose_terminal_has_gone_ends(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    with _start(theirs) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline() == "renewed\n"
        os.close(theirs)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        waiting.until_now(lambda: process.poll() is not None, what="its end")
        assert process.returncode == -signal.SIGTERM
