"""Run until the work is done or somebody says stop: a signal, or a parent that is gone.

The first word cancels the work, which then ends in order; a second one cancels the ending too. A
hang-up is such a word when a terminal goes away, and where nobody reads anything anew.
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


async def run(
    work: Coroutine[Any, Any, None],
    clock: Clock,
    *,
    stop_with_parent: bool = False,
    reload: Callable[[], None] | None = None,
) -> int | None:
    """Run the work; return None when it is done, or the number of the signal that stopped it.

    `with_parent`: stop also when the process that started us is gone, as after a kill of `uv run`.
    `renew`: what a hang-up asks for while our terminal, if we had one, is still there.
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
    """Remembers who said stop first."""

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
    """Return what ends us; a hang-up that was ignored when we came (`nohup`) stays ignored."""
    stop_signals = [signal.SIGINT, signal.SIGTERM]
    return (
        stop_signals
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        else [*stop_signals, signal.SIGHUP]
    )
