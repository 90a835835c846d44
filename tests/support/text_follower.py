"""The text that a follower has who obeys the contract: it knows events only."""

from collections.abc import Iterable

import msgspec


class _Event(msgspec.Struct):
    type: str
    text: str = ""
    keep: int = 0


_decode = msgspec.json.Decoder(_Event).decode


def text_after(stream: Iterable[str]) -> str:
    """Return the text of a follower that received these events, in order."""
    text = ""
    for event in map(_decode, stream):
        if event.type == "delta":
            text += event.text
        elif event.type == "reset":
            text = text[: event.keep]
    return text
