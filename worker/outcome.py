"""The closed set of ways in which an attempt ends, and the signal that ends one from outside."""

import asyncio
from typing import Final, Literal, NamedTuple

from shared.errors import BlockReason, Failure


class Finished(NamedTuple):
    """The answer is whole."""


class Failed(NamedTuple):
    """There will be no answer; the caller reads why and pays nothing."""

    failure: Failure


class Retry(NamedTuple):
    """Not now: wait in the queue for so many seconds, then any worker tries again.

    What waits for room, for somebody's probe or for another worker was not tried: that is no
    deferral. `code` tells what it is put off for. What is `parked` goes earlier, if one of these
    resources has room.
    """

    delay_seconds: float
    why: Literal["failed", "elsewhere"] | BlockReason = "failed"
    code: str = "DEFERRED"
    parked: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether only the deadline ends it."""
        return self.why in {"probing", "busy", "throttled", "elsewhere"}


class Released(NamedTuple):
    """This worker drains: back to the front of the line, as if never taken."""


class Cancelled(NamedTuple):
    """The caller wants it no more; what was made of it stays and is paid for."""


class Lost(NamedTuple):
    """Another attempt holds the generation, or it has ended: nothing of ours may be written."""


Outcome = Finished | Failed | Retry | Released | Cancelled | Lost


StopReason = Literal["cancel", "lost", "drain", "fault"]

INTERNAL: Final = Failure(
    message="Pollux failed to make the answer.",
    category="internal",
    code="INTERNAL",
    severity="fatal",
    retryable=True,
)


class StopSignal:
    """How an attempt is stopped from outside: the first pull decides, none at the end.

    It grips once the attempt can settle what a pull makes of it: a task that is cancelled before
    its first step never runs, and the generation would be nobody's.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._is_disarmed = False
        self.why: StopReason | None = None

    def attach(self) -> None:
        """Hold the attempt that calls; raises CancelledError if a pull came before."""
        self._task = asyncio.current_task()
        if self.why is not None:
            raise asyncio.CancelledError

    def trigger(self, why: StopReason) -> None:
        """Interrupt the attempt where it stands."""
        if self.why is None and not self._is_disarmed:
            self.why = why
            if self._task is not None:
                self._task.cancel()

    def disarm(self) -> None:
        """Let what follows, the settlement, run undisturbed."""
        self._is_disarmed = True

    def outcome(self) -> Outcome:
        """Return what an interrupted attempt comes to.

        Without a reason the worker is going; where nobody interrupted it at all, a step is at
        fault, and would be again.
        """
        match self.why:
            case "cancel":
                return Cancelled()
            case "lost":
                return Lost()
            case "fault":
                return Failed(INTERNAL)
            case "drain":
                return Released()
            case None:
                is_going = self._task is not None and self._task.cancelling() > 0
                return Released() if is_going else Failed(INTERNAL)
