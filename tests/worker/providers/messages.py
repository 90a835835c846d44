"""Short forms of the messages that tests send to providers: calls of tools, and their results."""

from collections.abc import Sequence

from shared.wire.conversation import CallPart, OpaquePart, TextPart
from worker.providers.contract import ChatMessage, Image


def calling(*calls: CallPart, text: str = "", before: Sequence[OpaquePart] = ()) -> ChatMessage:
    """Return an assistant's message: what precedes the text, the text, and the calls."""
    texts = (TextPart(text),) if text else ()
    return ChatMessage("assistant", (*before, *texts, *calls))


def result(
    call_id: str, text: str, images: Sequence[Image] = (), *, is_error: bool = False
) -> ChatMessage:
    """Return the result of a call."""
    texts = (TextPart(text),) if text else ()
    return ChatMessage("tool", (*texts, *images), call_id=call_id, is_error=is_error)
