"""Assembles the tool calls of one answer from the pieces in which they arrive.

Owns when a call is complete: it has a name, and arguments that are one JSON object. A malformed
call is an error of the stream, unless no tool was offered; one call too many always is.
"""

from typing import Any, Final

import msgspec

from shared.ids import new_id
from shared.wire.event import ToolCall
from worker.providers.sse import EVENT_BYTES_MAX, TooLargeError

TOOL_CALLS_MAX: Final = 128
_NO_ARGUMENTS: Final = (b"", b"null")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


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
        """Add a piece of the arguments' JSON. Raises TooLargeError."""
        self._tool_calls.count_bytes(len(piece))
        self._arguments += piece

    def complete(self, *, is_needed: bool) -> ToolCall | None:
        """Return the call; None if it is malformed and not needed: no tool was offered.

        Without an id from the upstream, the call gets a new one.

        Raises:
            msgspec.MsgspecError: it is needed, and malformed or incomplete.

        """
        try:
            return self._complete()
        except (msgspec.MsgspecError, RecursionError):
            if is_needed:
                raise
            return None

    def _complete(self) -> ToolCall:
        if not self.tool:
            raise msgspec.ValidationError("a call names no tool")
        received = bytes(self._arguments.strip())
        arguments = {} if received in _NO_ARGUMENTS else _decode(received)
        return ToolCall(self.call_id or new_id(), self.tool, arguments)
