"""The calls of tools in one answer, gathered from the pieces that they come in.

Owns what makes a call whole: a name, and arguments that are one JSON object. A call that cannot be
read is an error of the stream, unless nobody offered a tool; one call too many always is.
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
    """The calls of an answer: how many there were, and their arguments' bytes in all."""

    def __init__(self) -> None:
        self.count = 0
        self._bytes_left = EVENT_BYTES_MAX

    def begin(self, call_id: str | None, tool: str | None) -> "PartialToolCall":
        """Return a call that has begun. Raises TooLargeError."""
        self.count += 1
        if self.count > TOOL_CALLS_MAX:
            raise TooLargeError
        return PartialToolCall(self, call_id, tool)

    def count_bytes(self, length: int) -> None:
        """Count the bytes of some arguments. Raises TooLargeError."""
        self._bytes_left -= length
        if self._bytes_left < 0:
            raise TooLargeError


class PartialToolCall:
    """One call, as much of it as has come."""

    def __init__(self, calls: ToolCalls, call_id: str | None, tool: str | None) -> None:
        self.call_id = call_id
        self.tool = tool
        self._tool_calls = calls
        self._arguments = bytearray()

    def add_piece(self, piece: bytes) -> None:
        """Add to the arguments, which are JSON. Raises TooLargeError."""
        self._tool_calls.count_bytes(len(piece))
        self._arguments += piece

    def complete(self) -> ToolCall:
        """Return the call. Where an upstream gives it no id, it gets one.

        Raises:
            msgspec.MsgspecError: it is none, or not whole.

        """
        if not self.tool:
            raise msgspec.ValidationError("a call names no tool")
        said = bytes(self._arguments.strip())
        arguments = {} if said in _NO_ARGUMENTS else _decode(said)
        return ToolCall(self.call_id or new_id(), self.tool, arguments)

    def complete_or_none(self) -> ToolCall | None:
        """Return the call, or None if it is none: where no tool was offered, it is not missed."""
        try:
            return self.complete()
        except (msgspec.MsgspecError, RecursionError):
            return None
