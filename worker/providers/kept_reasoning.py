"""Keeps the reasoning of one answer in the form in which its upstream wants it back.

Owns what is joined of the pieces: Anthropic's blocks of thinking with their signatures, and two
fields of chat completions. Used only where tools were offered: between turns, nothing is wanted.
"""

from collections.abc import Iterator
from typing import Any, Final

from shared.wire.conversation import OpaquePart

THINKING_TYPES: Final = frozenset({"thinking", "redacted_thinking"})
# What DeepSeek and others, and OpenRouter, want back with the calls that followed it.
REASONING_FIELDS: Final = ("reasoning_content", "reasoning_details")
# The fields of a reasoning detail that arrive in pieces; encrypted ones arrive whole.
_CONTINUED: Final = frozenset({"text", "summary"})


class ThinkingBlocks:
    """The blocks of thinking that have begun, by their index, and the pieces of their text."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[dict[str, Any], list[str]]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._open

    def begin(self, index: int, kind: str, **fields: str | None) -> None:
        """Begin a block with the fields that it has at once."""
        block: dict[str, Any] = {name: value for name, value in fields.items() if value}
        text = block.pop("thinking", "")
        self._open[index] = {"type": kind, **block}, [text]

    def grow(self, index: int, thinking: str | None, signature: str | None) -> None:
        """Add a piece of the text, or the signature of all of it."""
        block, pieces = self._open[index]
        if thinking:
            pieces.append(thinking)
        if signature:
            block["signature"] = signature

    def close(self, index: int) -> dict[str, Any]:
        """Return a block as it is sent back."""
        block, pieces = self._open.pop(index)
        return block | ({"thinking": "".join(pieces)} if block["type"] == "thinking" else {})


class KeptReasoning:
    """The reasoning of a chat completion in the fields in which the upstream wants it back."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._details: list[dict[str, Any]] = []

    def add(self, content: object, details: object) -> None:
        """Add the pieces of a delta. An empty text counts: DeepSeek wants the field back."""
        if isinstance(content, str):
            self._content.append(content)
        for piece in details if isinstance(details, list) else ():
            if isinstance(piece, dict):
                self._add_detail(piece)

    def _add_detail(self, piece: dict[str, Any]) -> None:
        """Add a piece of a detail: its texts continue those of the last one of the same place."""
        last = self._details[-1] if self._details else None
        if last is None or not _is_continued(last, piece):
            self._details.append(dict(piece))
            return
        for name, value in piece.items():
            if name in _CONTINUED and isinstance(value, str) and isinstance(last.get(name), str):
                last[name] += value
            elif value is not None:
                last[name] = value

    def parts(self, dialect: str, provider: str) -> Iterator[OpaquePart]:
        """Yield what is to be sent back, if anything."""
        value: dict[str, Any] = {}
        if self._content:
            value["reasoning_content"] = "".join(self._content)
        if self._details:
            value["reasoning_details"] = self._details
        if value:
            yield OpaquePart(dialect, value, provider)


def _is_continued(last: dict[str, Any], piece: dict[str, Any]) -> bool:
    """Tell whether a piece belongs to the last detail."""
    is_same = all(last.get(name) == piece.get(name) for name in ("type", "index"))
    return is_same and "data" not in piece
