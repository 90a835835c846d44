"""What a tool is: a definition for the model, and a call that ends with a result or a wait.

A tool that fails raises anything, or returns a result with `is_error`: the model reads it, and the
generation goes on.
"""

from typing import Any, Protocol

import msgspec

from shared.wire.conversation import TextPart, ToolDefinition
from shared.wire.event import ApprovalRequired


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, for which generation, in which attempt; `seconds_left` until its deadline.

    `call_id` is the same whenever the call is run again, in any attempt.
    """

    account: str
    generation: str
    session: str | None
    attempt: int
    call_id: str
    seconds_left: float


class ToolOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a call: what the model reads, and a sentence for people."""

    parts: tuple[TextPart, ...]
    summary: str
    is_error: bool = False


class Suspend(msgspec.Struct, frozen=True, kw_only=True):
    """The call waits for a person, and has had no effect: it is run again afterwards.

    The worker is free meanwhile. The call is run again at `until_ms` (Redis' clock), or as soon as
    the generation is resumed.
    """

    until_ms: int
    event: ApprovalRequired


class Tool(Protocol):
    """A tool.

    `is_repeatable`: a call whose result was lost with its worker may be run again. The other tools'
    calls then end with an error, since nobody knows whether they had an effect.
    """

    @property
    def definition(self) -> ToolDefinition:
        """What the model reads of it."""

    @property
    def is_repeatable(self) -> bool:
        """Whether a call may be run twice."""

    @property
    def timeout_seconds(self) -> float:
        """How long a call may take."""

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolOutput | Suspend:
        """Run a call."""
