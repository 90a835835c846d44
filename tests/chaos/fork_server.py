"""A process that imports the worker once and forks a worker for every word it hears.

Owns the children: their start, the news of their end, and that none outlives it. Refuses to decide
anything: which worker is forked, killed or replaced is the brood's to say, in `brood.py`.

Hears lines on standard input, msgpack in hex: a `Birth`. Says lines on standard output:
`born KEY PID`, `named KEY PID ID` once a worker is ready, `gone KEY CODE` (negative: the signal).

DESIGN. Python takes half a second of CPU to import a worker, a fork a few milliseconds; a thousand
workers are killed in one run. The nursery has one thread, so a fork copies no lock that somebody
holds. A child dies with the nursery, whatever the nursery dies of (PR_SET_PDEATHSIG), and the
nursery kills all and ends when its input does, whatever the brood's process dies of.
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
    """A worker to fork: its environment, where its log goes, and the traps laid in it.

    A trap is `module:function` and a text to call it with, in the child alone.
    """

    key: str
    environment: dict[str, str]
    log: str
    hooks: list[tuple[str, str]] = []


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ForkRequest).decode


class ForkServer:
    """The loop: births from standard input, deaths from the kernel."""

    def __init__(self) -> None:
        self._children: dict[int, str] = {}
        self._partial_line = b""
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    def run(self) -> None:
        """Serve until standard input ends; then kill whoever is left."""
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # What is there now is never garbage; a child that leaves it alone shares its pages.
        gc.freeze()
        while self._serve():
            pass
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _serve(self) -> bool:
        """Hear one thing; False once the input has ended."""
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
    """Be a worker, as `python -m worker` is one, and never return into the nursery's loop."""
    code = 70
    try:
        _die_with_parent(parent)
        _detach(fork_request)
        for where, text in fork_request.hooks:
            module, _, name = where.partition(":")
            getattr(importlib.import_module(module), name)(text)
        code = entry.main()
    finally:
        # No exit handler runs here.
        logs.flush()
        os._exit(code)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _detach(fork_request: ForkRequest) -> None:
    """Let go of what is the nursery's own: its input, its signals, its arguments."""
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
    """Tell the worker's id once it is ready to hear signals."""
    original = arq_worker.PolluxWorker.async_run

    async def run_and_announce(self: Worker) -> None:
        assert isinstance(self, arq_worker.PolluxWorker)
        id_ = self.id

        async def on_startup(ctx: dict[Any, Any]) -> None:  # noqa: ARG001  arq's own word
            # The worker goes on to set its signals up before the loop turns again.
            loop = asyncio.get_running_loop()
            loop.call_soon(_print_line, f"ready {key} {os.getpid()} {id_}")

        self.on_startup = on_startup
        await original(self)

    arq_worker.PolluxWorker.async_run = run_and_announce  # type: ignore[method-assign]  # in the child alone


def _print_line(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    ForkServer().run()
