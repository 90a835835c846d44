"""Adapts a conversation to upstreams that refuse blank messages or a missing first user message.

Owns what happens to blank messages. Anthropic and Gemini refuse a blank text, and a conversation
that does not begin with a user; a valid conversation of ours may have both.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from worker.providers.contract import ChatMessage

# Sent in place of a blank user message.
EMPTY_MESSAGE_TEXT: Final = "(no text)"


def system_prompt(messages: Sequence[ChatMessage]) -> str:
    """Return the texts of all system messages, joined; `""` if there are none."""
    texts = (message.content for message in messages if message.role == "system")
    return "\n\n".join(text for text in texts if text.strip())


def normalize_messages(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages other than system messages: a user begins, and none is blank.

    A blank assistant message without calls is left out; a blank user message is replaced by
    `EMPTY_MESSAGE_TEXT`.
    """
    found: list[ChatMessage] = []
    for message in messages:
        is_blank = not (message.content.strip() or message.images or message.calls)
        if message.role == "system" or (message.role == "assistant" and is_blank):
            continue
        found.append(
            msgspec.structs.replace(message, content=EMPTY_MESSAGE_TEXT)
            if is_blank and message.role == "user"
            else message
        )
    if not found or found[0].role != "user":
        found.insert(0, ChatMessage("user", EMPTY_MESSAGE_TEXT))
    return found
