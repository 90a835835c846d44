"""Adapts a conversation to upstreams that refuse blank messages or a missing first user message.

Owns what happens to blank texts, and the forms of what not every upstream knows: arguments that are
no JSON object, opaque parts of another upstream. Anthropic and Gemini refuse a blank text, and a
conversation that does not begin with a user; a valid conversation of ours may have both.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from shared.settings import ModelSettings
from shared.wire.conversation import CallPart, OpaquePart, TextPart
from worker.providers.contract import ChatMessage, MessagePart

# Sent in place of a blank user message.
EMPTY_MESSAGE_TEXT: Final = "(no text)"
INSTRUCTION_ROLES: Final = frozenset({"system", "developer"})
# The name that Anthropic's documentation gives to arguments that are no JSON, in a JSON object.
_INVALID: Final = "INVALID_JSON"


def system_prompt(messages: Sequence[ChatMessage]) -> str:
    """Return the texts of all system and developer messages, joined; `""` if there are none."""
    texts = (
        part.text
        for message in messages
        if message.role in INSTRUCTION_ROLES
        for part in message.parts
        if isinstance(part, TextPart)
    )
    return "\n\n".join(text for text in texts if text.strip())


def normalize_messages(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages other than instructions: a user begins, and no text is blank.

    An assistant message without text and calls is left out; a user message without text and images
    is replaced by `EMPTY_MESSAGE_TEXT`.
    """
    found: list[ChatMessage] = []
    for message in messages:
        if message.role in INSTRUCTION_ROLES:
            continue
        text = only_text(message)
        normal = message if text is not None and text.strip() else _normalize(message)
        if normal is not None:
            found.append(normal)
    if not found or found[0].role != "user":
        found.insert(0, ChatMessage("user", (TextPart(EMPTY_MESSAGE_TEXT),)))
    return found


def only_text(message: ChatMessage) -> str | None:
    """Return the text of a message that has nothing else, as nearly all have; else None."""
    parts = message.parts
    return parts[0].text if len(parts) == 1 and type(parts[0]) is TextPart else None


def _normalize(message: ChatMessage) -> ChatMessage | None:
    """Return a message without blank texts; None if nothing is left to send."""
    parts = tuple(part for part in message.parts if not _is_blank(part))
    if not parts and message.role == "user":
        parts = (TextPart(EMPTY_MESSAGE_TEXT),)
    if message.role == "assistant" and all(isinstance(part, OpaquePart) for part in parts):
        return None
    return msgspec.structs.replace(message, parts=parts)


def _is_blank(part: MessagePart) -> bool:
    return isinstance(part, TextPart) and not part.text.strip()


def arguments_of(call: CallPart) -> dict[str, Any]:
    """Return a call's arguments as an object, also where the model wrote something else."""
    found = call.object
    return {_INVALID: call.arguments} if found is None else found


def is_readable(part: OpaquePart, dialect: str, model: ModelSettings) -> bool:
    """Tell whether a model's upstream can read an opaque part: it, or one like it, wrote it."""
    return part.dialect == dialect and part.provider in {"", model.provider}
