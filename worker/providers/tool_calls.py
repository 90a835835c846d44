"""Assembles the tool calls of one answer from the pieces in which they arrive.

Owns when a call is complete: it has a name. Its arguments are returned as the model wrote them, be
they JSON or not. A call without a name is an error of the stream, unless no tool was offered; one
call too many always is.
"""

from typing import Final

import msgspec

from shared.ids import new_id
from shared.wire.conversation import CallPart
from worker.providers.sse import EVENT_BYTES_MAX, TooLargeError

TOOL_CALLS_MAX: Final = 128
_NO_ARGUMENTS: Final = (b"", b"null")


class ToolCalls:
    """The calls of an answer: counts them, and the bytes of all their arguments."""

    def __init__(self) -> None:
        self.count = 0
        self._bytes_left = EVENT_BYTES_MAX

    def begin(self, call_id: str | None, tool: str | None) -> "PartialToolCall":
        """Begin a call. Raises TooLargeError."""
        self.count += 1
        if self.count > TOOL_CALLS_MAX:
            raise TooLargeError
        return PartialToolCall(self, call_id, tool)

    def count_bytes(self, length: int) -> None:
        """Count bytes of arguments. Raises TooLargeError."""
        self._bytes_left -= length
        if self._bytes_left < 0:
            raise TooLargeError


class PartialToolCall:
    """One call, as far as it has arrived."""

    def __init__(self, calls: ToolCalls, call_id: str | None, tool: str | None) -> None:
        self.call_id = call_id
        self.tool = tool
        self._tool_calls = calls
        self._arguments = bytearray()

    def add_piece(self, piece: bytes) -> None:
        """Add a piece of the arguments. Raises TooLargeError."""
        self._tool_calls.count_bytes(len(piece))
        self._arguments += piece

    def complete(self, *, is_needed: bool) -> CallPart | None:
        """Return the call; None if it has no name and is not needed: no tool was offered.

        Without an id from the upstream, the call gets a new one; without arguments, `{}`.

        Raises:
            msgspec.ValidationError: it is needed, and has no name.

        """
        if not self.tool:
            if is_needed:
                raise msgspec.ValidationError("a call names no tool")
            return None
        received = bytes(self._arguments)
        is_empty = received.strip() in _NO_ARGUMENTS
        arguments = "{}" if is_empty else received.decode(errors="replace")
        return CallPart(self.call_id or new_id(), self.tool, arguments)
