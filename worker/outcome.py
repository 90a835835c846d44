"""The closed set of outcomes of an attempt, and the signal that stops an attempt from outside."""

import asyncio
from typing import Final, Literal, NamedTuple

from shared.errors import BlockReason, Failure


class Finished(NamedTuple):
    """The answer is complete."""


class Failed(NamedTuple):
    """The generation ends without an answer; the caller reads `failure`."""

    failure: Failure


class Retry(NamedTuple):
    """Return the generation to the queue for `delay_seconds`; then any worker may try again.

    A wait for room, for another call's probe or for another worker is not counted as a deferral,
    since no upstream was tried. `code` names the reason for the caller. A generation `parked` for
    resources is claimed earlier if one of them has room.
    """

    delay_seconds: float
    why: Literal["failed", "elsewhere"] | BlockReason = "failed"
    code: str = "DEFERRED"
    parked: tuple[str, ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether the wait counts as no deferral, so that only the deadline bounds it."""
        return self.why in {"probing", "busy", "throttled", "elsewhere"}


class Suspended(NamedTuple):
    """The generation waits without a worker: until it is resumed, or else until `until_ms`."""

    until_ms: int


class Released(NamedTuple):
    """This worker drains: the generation returns to the front of its lane, as if never claimed."""


class Cancelled(NamedTuple):
    """The caller cancelled; the text so far is kept and charged."""


class Lost(NamedTuple):
    """Another attempt holds the generation, or it has ended: this attempt must write nothing."""


Outcome = Finished | Failed | Retry | Suspended | Released | Cancelled | Lost


StopReason = Literal["cancel", "lost", "drain", "fault"]

INTERNAL: Final = Failure(
    message="Pollux failed to make the answer.",
    category="internal",
    code="INTERNAL",
    severity="fatal",
    retryable=True,
)


class StopSignal:
    """Stops an attempt from outside. The first trigger decides; after `disarm` none has effect.

    A trigger cancels the task only once the attempt has called `attach`: asyncio never runs a task
    that is cancelled before its first step, so nothing would settle the generation.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._is_disarmed = False
        self.why: StopReason | None = None

    def attach(self) -> None:
        """Bind the current task; raises CancelledError if a trigger came before."""
        self._task = asyncio.current_task()
        if self.why is not None:
            raise asyncio.CancelledError

    def trigger(self, why: StopReason) -> None:
        """Cancel the attempt's task."""
        if self.why is None and not self._is_disarmed:
            self.why = why
            if self._task is not None:
                self._task.cancel()

    def disarm(self) -> None:
        """Ignore later triggers, so that the settlement is not interrupted."""
        self._is_disarmed = True

    def outcome(self) -> Outcome:
        """Return the outcome of an attempt that ended with CancelledError.

        Without a reason, either the worker is closing, or a step raised CancelledError by itself:
        that is a fault of ours which a retry would repeat.
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
                is_closing = self._task is not None and self._task.cancelling() > 0
                return Released() if is_closing else Failed(INTERNAL)
