"""Fit a conversation into a window: whole turns go, oldest first; the system prompt stays.

Pure. Pictures belong to their own turn: they go with the message and with nothing that went before.
Tokens are estimated high; the room for the answer is set aside before anything else.
"""

from shared.routing import price
from worker.providers.contract import ChatMessage, Image


def truncate_history(
    system_prompt: str | None,
    history: list[ChatMessage],
    message: str,
    *,
    tokens_max: int,
    images: tuple[Image, ...] = (),
) -> list[ChatMessage]:
    """Return the messages to send: the last turns that fit into `tokens_max` beside what must be.

    `history` alternates user and assistant. The system prompt and the message are sent whatever
    they take.
    """
    fixed = [ChatMessage("system", system_prompt)] if system_prompt else []
    last = ChatMessage("user", message, images=images)
    left = tokens_max - tokens_of([*fixed, last])
    kept: list[ChatMessage] = []
    for user, assistant in reversed(list(zip(history[::2], history[1::2], strict=True))):
        left -= price.tokens_in(user.content) + price.tokens_in(assistant.content)
        if left < 0:
            break
        kept[:0] = (user, assistant)
    return [*fixed, *kept, last]


def tokens_of(messages: list[ChatMessage]) -> int:
    """Estimate the tokens of a conversation, high."""
    return sum(
        price.tokens_in(message.content) + price.IMAGE_TOKENS * len(message.images)
        for message in messages
    )
