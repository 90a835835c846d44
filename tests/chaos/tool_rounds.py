"""Rounds of tools in a run: an upstream that calls them first, and workers that have them.

Owns the two tools. One returns at once; the other waits for a person until `approve` was called,
which its workers learn from a file, as from the store of a real approval.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from shared.wire.conversation import TextPart, ToolDefinition
from shared.wire.event import ApprovalRequired
from tests.support.scripted_provider import Request, ScriptedAnswer
from worker.tools.contract import Suspend, Tool, ToolContext, ToolOutput
from worker.tools.registry import ToolRegistry

# What the upstream says before it calls tools, and what is sent between two rounds' texts.
KEPT_TEXT: Final = "Let me look \u00e9\u20ac\U0001f600.\n\n"
_FAR_MS: Final = 32_503_680_000_000
_EVENT: Final = ApprovalRequired("approval-1", "ask", {}, "3000-01-01T00:00:00Z")
_CALLS: Final = (("call-1", "look", "{}"), ("call-2", "ask", "{}"))


class _ChaosTool:
    """A tool that may run twice; with the path of a file, it waits until that is there."""

    is_repeatable = True
    timeout_seconds = 10.0

    def __init__(self, name: str, approval: Path | None = None) -> None:
        self.definition = ToolDefinition(name=name, description="Scripted.")
        self._approval = approval

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> ToolOutput | Suspend:
        """Return a result, or wait."""
        if self._approval is not None and not self._approval.exists():
            return Suspend(until_ms=_FAR_MS, event=_EVENT)
        return ToolOutput(parts=(TextPart(f"{arguments} for {context.account}"),), summary="Done.")


def install_tools(approval: str) -> None:
    """Give all attempts of this process the tools; an approval waits for the file of that path."""
    tools = (_ChaosTool("look"), _ChaosTool("ask", Path(approval) if approval else None))
    begin = ToolRegistry.__init__

    def begin_with_tools(self: ToolRegistry, _: Iterable[Tool] = ()) -> None:
        begin(self, tools)

    ToolRegistry.__init__ = begin_with_tools  # type: ignore[assignment, method-assign]  # in the child alone


def calls_of(request: Request) -> ScriptedAnswer | None:
    """Return the calls of tools that an upstream answers with; None once it has their results."""
    if "tools" not in request.body or request.messages[-1]["role"] == "tool":
        return None
    return ScriptedAnswer(text=KEPT_TEXT.rstrip(), calls=_CALLS)
