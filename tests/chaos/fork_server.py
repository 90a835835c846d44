"""A program that imports the worker once and forks a worker on each request.

Owns the child processes: their start, the report of their exit, and that none outlives it. Decides
nothing: `worker_pool` says which worker is forked, killed or replaced.

Reads lines from standard input, msgpack in hex: a `ForkRequest`. Writes lines to standard output:
`forked KEY PID`, `ready KEY PID ID` once a worker is ready, `exited KEY CODE` (negative: a signal).

DESIGN. Python takes half a second of CPU to import a worker, a fork a few milliseconds; one run
kills a thousand workers. The fork server has one thread, so a fork copies no held lock. A child
dies with the fork server, however that dies (PR_SET_PDEATHSIG); and the fork server kills all
children and ends when its standard input closes, however the test process dies.
"""

import asyncio
import ctypes
import gc
import importlib
import os
import select
import signal
import sys
from typing import Any, Final, NoReturn

import msgspec
from arq.worker import Worker

from shared.telemetry import logs
from worker import __main__ as entry
from worker.consumer import arq_worker

_PR_SET_PDEATHSIG: Final = 1
_READ_BYTES: Final = 65_536


class ForkRequest(msgspec.Struct, frozen=True):
    """A worker to fork: its environment, its log file and its hooks.

    A hook is `module:function` and the text to call it with, in the child only.
    """

    key: str
    environment: dict[str, str]
    log: str
    hooks: list[tuple[str, str]] = []


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ForkRequest).decode


class ForkServer:
    """The loop: fork requests from standard input, exits of children from SIGCHLD."""

    def __init__(self) -> None:
        self._children: dict[int, str] = {}
        self._partial_line = b""
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    def run(self) -> None:
        """Serve until standard input ends; then kill the remaining children."""
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The imported modules are never garbage; a collector that skips them keeps pages shared.
        gc.freeze()
        while self._serve():
            pass
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _serve(self) -> bool:
        """Handle one event; return False once the input has ended."""
        ready, _, _ = select.select([0, self._wake], [], [])
        if self._wake in ready:
            os.read(self._wake, _READ_BYTES)
            self._reap_children()
        if 0 not in ready:
            return True
        data = os.read(0, _READ_BYTES)
        *lines, self._partial_line = (self._partial_line + data).split(b"\n")
        for line in lines:
            self._fork(_decode(bytes.fromhex(line.decode())))
        return bool(data)

    def _fork(self, fork_request: ForkRequest) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _run_worker(fork_request, parent)
        self._children[pid] = fork_request.key
        _print_line(f"forked {fork_request.key} {pid}")

    def _reap_children(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _print_line(f"exited {self._children.pop(pid)} {os.waitstatus_to_exitcode(status)}")


def _run_worker(fork_request: ForkRequest, parent: int) -> NoReturn:
    """Run a worker like `python -m worker`; never return to the fork server's loop."""
    code = 70
    try:
        _die_with_parent(parent)
        _detach(fork_request)
        for where, text in fork_request.hooks:
            module, _, name = where.partition(":")
            getattr(importlib.import_module(module), name)(text)
        code = entry.main()
    finally:
        # os._exit runs no exit handler.
        logs.flush()
        os._exit(code)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _detach(fork_request: ForkRequest) -> None:
    """Drop what belongs to the fork server: its input, its signals, its arguments."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull, "rb") as nothing, open(fork_request.log, "ab") as log:  # noqa: PTH123  by number
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 2)
    sys.argv = ["pollux worker"]
    os.environ.clear()  # noqa: TID251  what exec would give a child of its own
    os.environ.update(fork_request.environment)  # noqa: TID251  the same
    _announce(fork_request.key)


def _announce(key: str) -> None:
    """Write the worker's id once its signal handlers are installed."""
    original = arq_worker.PolluxWorker.async_run

    async def run_and_announce(self: Worker) -> None:
        assert isinstance(self, arq_worker.PolluxWorker)
        id_ = self.id

        async def on_startup(ctx: dict[Any, Any]) -> None:  # noqa: ARG001  arq's own word
            # The worker installs its signal handlers before the next turn of the loop.
            loop = asyncio.get_running_loop()
            loop.call_soon(_print_line, f"ready {key} {os.getpid()} {id_}")

        self.on_startup = on_startup
        await original(self)

    arq_worker.PolluxWorker.async_run = run_and_announce  # type: ignore[method-assign]  # in the child alone


def _print_line(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    ForkServer().run()
