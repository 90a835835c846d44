"""Cuts a conversation to a context window: whole turns go, oldest first; the system prompt stays.

Pure. Images belong to their own turn and are sent with its message only. Tokens are estimated high;
the caller has already subtracted the room for the answer from `tokens_max`.
"""

from shared.routing import price
from worker.providers.contract import ChatMessage, Image, text_message


def truncate_history(
    system_prompt: str | None,
    history: list[ChatMessage],
    message: str,
    *,
    tokens_max: int,
    images: tuple[Image, ...] = (),
) -> list[ChatMessage]:
    """Return the messages to send: the latest turns that fit into `tokens_max` with the message.

    `history` alternates user and assistant. The system prompt and the message are always sent.
    """
    fixed = [text_message("system", system_prompt)] if system_prompt else []
    last = text_message("user", message, images)
    left = tokens_max - tokens_of([*fixed, last])
    kept: list[ChatMessage] = []
    for user, assistant in reversed(list(zip(history[::2], history[1::2], strict=True))):
        left -= price.tokens_in(user.text) + price.tokens_in(assistant.text)
        if left < 0:
            break
        kept[:0] = (user, assistant)
    return [*fixed, *kept, last]


def tokens_of(messages: list[ChatMessage]) -> int:
    """Estimate the tokens of a conversation, high."""
    return sum(
        price.tokens_in(message.text) + price.IMAGE_TOKENS * len(message.images)
        for message in messages
    )
