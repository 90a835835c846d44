"""A conversation as upstreams take it that are stricter than ours: what is blank, who begins.

Owns what becomes of messages that say nothing. Anthropic and Gemini refuse a blank text, and a
conversation that no user begins; a lawful one of ours may hold both.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from worker.providers.contract import ChatMessage

# What stands where a person said nothing that can be read.
EMPTY_MESSAGE_TEXT: Final = "(no text)"


def system_prompt(messages: Sequence[ChatMessage]) -> str:
    """Return all that is said by the system, wherever it is said; `""` when that is nothing."""
    said = (message.content for message in messages if message.role == "system")
    return "\n\n".join(text for text in said if text.strip())


def normalize_messages(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return what the others say: a user begins, and every message says something.

    An assistant that said nothing and called nothing is left out; a user is given the stand-in.
    """
    found: list[ChatMessage] = []
    for message in messages:
        is_blank = not (message.content.strip() or message.images or message.calls)
        if message.role == "system" or (message.role == "assistant" and is_blank):
            continue
        is_silent = message.role == "user" and is_blank
        found.append(
            msgspec.structs.replace(message, content=EMPTY_MESSAGE_TEXT) if is_silent else message
        )
    if not found or found[0].role != "user":
        found.insert(0, ChatMessage("user", EMPTY_MESSAGE_TEXT))
    return found
