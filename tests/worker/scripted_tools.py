"""Tools that answer as scripted, for tests of rounds.

Owns what each call was given. A reply may be a result, a wait, an exception to raise, or a function
that returns one of these.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from shared.wire.conversation import TextPart, ToolDefinition
from worker.tools.contract import Suspend, ToolContext, ToolOutput

Reply = ToolOutput | Suspend | BaseException
Replier = Callable[[dict[str, Any], ToolContext], Awaitable[Reply]]


def output(text: str, *, is_error: bool = False) -> ToolOutput:
    """Return a result."""
    return ToolOutput(parts=(TextPart(text),), summary=f"It said {text[:20]}.", is_error=is_error)


class ScriptedTool:
    """A tool; without a script it returns `NAME of ARGUMENTS`."""

    def __init__(
        self, name: str, *, is_repeatable: bool = True, timeout_seconds: float = 10.0
    ) -> None:
        self.definition = ToolDefinition(name=name, description="Scripted.", parameters={})
        self.is_repeatable = is_repeatable
        self.timeout_seconds = timeout_seconds
        self.script: deque[Reply | Replier] = deque()
        self.calls: list[tuple[dict[str, Any], ToolContext]] = []
        self.running = self.running_max = 0

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolOutput | Suspend:
        """Reply as scripted."""
        self.calls.append((arguments, context))
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await asyncio.sleep(0)  # noqa: TID251  lets the other calls begin
            reply: Reply | Replier = output(f"{self.definition.name} of {arguments}")
            if self.script:
                reply = self.script.popleft()
            if callable(reply):
                reply = await reply(arguments, context)
        finally:
            self.running -= 1
        if isinstance(reply, BaseException):
            raise reply
        return reply
