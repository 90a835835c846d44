"""The buffer before standard error: order, limits, reports of dropped lines, and prompt ends."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from shared.telemetry.sink import Sink

_PIPE_BYTES: Final = 4096

# Everything that may write to standard error, in one program.
_PROGRAM: Final = """
import logging, sys, threading, warnings
from shared.settings import LogSettings
from shared.telemetry import logs

logs.begin()
logs.configure(LogSettings(), process="test")
logs.logger().info("first", name="\\ud800")
logging.getLogger("arq.worker").warning("second %s", "arq")
logging.getLogger("uvicorn.error").error("third %d", "no number")
warnings.warn("fourth")
thread = threading.Thread(target=lambda: 1 / 0, name="fifth")
thread.start()
thread.join()
print("sixth", end="", file=sys.stderr)
if "-k" in sys.argv:
    sys.stdin.readline()
raise RuntimeError("seventh")
"""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a small pipe."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    yield out, into
    os.close(into)
    os.close(out)


def _line(number: int) -> bytes:
    return b"%0127d\n" % number


def _read(descriptor: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += os.read(descriptor, size - len(found))
    return found


def test_lines_are_written_in_their_order(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    for number in range(20):
        sink.write(_line(number))
    assert sink.flush(10)
    assert _read(pipe[0], 20 * 128) == b"".join(map(_line, range(20)))
    assert sink.dropped == 0


def test_dropped_lines_are_counted_and_reported_in_their_place(
    pipe: tuple[int, int],
) -> None:
    sink = Sink(pipe[1], bytes_max=_PIPE_BYTES)
    total = 0
    while sink.dropped < 5:
        sink.write(_line(total))
        total += 1
    assert not sink.flush(0.05)
    following = 0
    with os.fdopen(os.dup(pipe[0]), "rb") as written:
        while following < total:
            word, *rest = written.readline().split()
            if rest:
                assert b" ".join(rest) == b"log lines were dropped here"
                following += int(word)
            else:
                assert int(word) == following
                following += 1
    assert following == total
    sink.write(_line(total))
    assert sink.flush(10)
    assert _read(pipe[0], 128) == _line(total)


def test_a_failing_descriptor_is_retried_and_blocks_nobody(
    pipe: tuple[int, int],
) -> None:
    out, into = os.pipe()
    os.close(out)
    sink = Sink(into)
    sink.write(b"kept\n")
    assert not sink.flush(10)
    os.dup2(pipe[1], into)
    assert _read(pipe[0], 5) == b"kept\n"
    os.close(into)


def test_a_non_blocking_descriptor_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    sink = Sink(pipe[1])
    for number in range(100):
        sink.write(_line(number))
    assert _read(pipe[0], 100 * 128) == b"".join(map(_line, range(100)))


def _run(*words: str, stderr: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words], stdin=subprocess.PIPE, stderr=stderr
    )


def test_all_output_of_a_program_is_written_in_order_with_its_traceback() -> None:
    process = _run(stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 1
    lines = said.decode().splitlines()
    assert "first" in json.loads(lines[0])["event"]
    assert json.loads(lines[1])["event"] == "second arq"
    assert "third" in lines[2]
    assert "fourth" in json.loads(lines[3])["event"]
    assert "ZeroDivisionError: division by zero" in lines
    assert any(line.startswith("sixth") for line in lines)
    assert lines[-1] == "RuntimeError: seventh"


def test_a_program_whose_pipe_is_never_read_ends(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x" * _PIPE_BYTES)
    process = _run(stderr=pipe[1])
    process.communicate(timeout=15)
    assert process.returncode == 1


def test_a_program_without_standard_error_writes_to_no_other_file() -> None:
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -c "$0" 2>&-', _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    said, _ = process.communicate(timeout=15)
    assert (process.returncode, said) == (1, b"")


def test_a_killed_program_loses_only_its_last_lines() -> None:
    process = _run("-k", stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = b""
    while b"ZeroDivisionError" not in said:
        said += os.read(process.stderr.fileno(), 65536)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=15)
    assert process.returncode == -signal.SIGKILL
    assert said.count(b"first") == said.count(b"second arq") == 1
