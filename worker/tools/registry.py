"""The deployment's tools, and which of them an answer is offered. None ships yet."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from shared.wire.submission import Submission
from worker.tools.contract import Tool

_NOTHING: Final[Mapping[str, Tool]] = MappingProxyType({})


class ToolRegistry:
    """Tools by the names that models call."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: Mapping[str, Tool] = {tool.definition.name: tool for tool in tools}

    def offered(self, submission: Submission) -> Mapping[str, Tool]:
        """Return the tools that an answer is offered, by name.

        None where the caller has tools of its own, or sends its conversation as it stands.
        """
        is_own = submission.tools or submission.conversation is not None
        return _NOTHING if is_own else self._tools
