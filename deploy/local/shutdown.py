"""Runs work until it is done, a signal arrives or the parent process is gone.

The first signal cancels the work, which then stops in order; a second signal cancels that orderly
stop too. SIGHUP stops the work if the terminal is gone or if there is nothing to reload.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shared.clock import Clock
from shared.sighup import Sighup

_POLL_SECONDS: Final = 0.25
_SIGNAL_EXIT_CODE: Final = 128


def exit_code_of(signum: int | None) -> int:
    """Return the exit code of a command that this signal ended; 0 without a signal."""
    return 0 if signum is None else _SIGNAL_EXIT_CODE + signum


async def run_until_stopped(
    work: Coroutine[Any, Any, None],
    clock: Clock,
    *,
    stop_with_parent: bool = False,
    reload: Callable[[], None] | None = None,
) -> int | None:
    """Run the work; return None when it is done, or the number of the signal that stopped it.

    `stop_with_parent`: also stop if our parent process dies, for instance a killed `uv run`.
    `reload`: called at SIGHUP as long as our terminal, if we were started in one, is there.
    """
    stopper = _Stopper(asyncio.ensure_future(work))
    loop = asyncio.get_running_loop()
    for signum in _stop_signals():
        loop.add_signal_handler(signum, stopper.stop, signum)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, Sighup(reload).reload_or_end)
    parent_watch = (
        asyncio.ensure_future(_stop_with_parent(stopper, clock)) if stop_with_parent else None
    )
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await stopper.task
    finally:
        if parent_watch is not None:
            parent_watch.cancel()
    return stopper.signum


class _Stopper:
    """Cancels the work, and remembers the first signal that asked for it."""

    def __init__(self, task: asyncio.Future[None]) -> None:
        self.task = task
        self.signum: int | None = None

    def stop(self, signum: int) -> None:
        self.signum = self.signum or signum
        self.task.cancel()


async def _stop_with_parent(stopper: _Stopper, clock: Clock) -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        await clock.sleep(_POLL_SECONDS)
    stopper.stop(signal.SIGHUP)


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that stop us; a SIGHUP that our parent ignores (`nohup`) stays ignored."""
    stop_signals = [signal.SIGINT, signal.SIGTERM]
    return (
        stop_signals
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        else [*stop_signals, signal.SIGHUP]
    )
