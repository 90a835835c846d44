"""Cuts a conversation to a context window: whole turns go, oldest first; the system prompt stays.

Pure. A turn goes as a whole, with its calls of tools and their results. Images belong to their own
turn and are sent with its message only. Tokens are estimated high; the caller has already
subtracted the room for the answer from `tokens_max`.
"""

from collections.abc import Iterable

from shared.routing import price
from worker.providers.contract import ChatMessage, Image, Turn, text_message


def truncate_history(
    system_prompt: str | None,
    history: list[Turn],
    message: str,
    *,
    tokens_max: int,
    images: tuple[Image, ...] = (),
) -> list[ChatMessage]:
    """Return the messages to send: the latest turns that fit into `tokens_max` with the message.

    The system prompt and the message are always sent.
    """
    fixed = [text_message("system", system_prompt)] if system_prompt else []
    last = text_message("user", message, images)
    left = tokens_max - tokens_of([*fixed, last])
    kept: list[ChatMessage] = []
    for turn in reversed(history):
        left -= tokens_of(turn)
        if left < 0:
            break
        kept[:0] = turn
    return [*fixed, *kept, last]


def tokens_of(messages: Iterable[ChatMessage]) -> int:
    """Estimate the tokens of a conversation, high."""
    return sum(price.tokens_in_parts(message.parts) for message in messages)
