"""A row for each adapter: how its upstream says the things that every upstream says.

Owns the bytes of each dialect. The suite owns what is to come of them.
"""

import json
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from shared.settings import ModelSettings
from worker.providers import contract
from worker.providers.openai import OpenAI

Reason = Literal["stop", "length", "content_filter", "tool_calls", "other"]


class Dialect(NamedTuple):
    """How one kind of upstream speaks; every callable returns whole events or a whole body."""

    name: str
    words: contract.Dialect
    path: str
    text: Callable[[str], bytes]
    used: Callable[[int, int], bytes]
    ended: Callable[[Reason], bytes]
    done: bytes
    error_event: Callable[[int, str], bytes]
    refusal: Callable[[str, str], bytes]

    def answer(
        self, *texts: str, reason: Reason = "stop", usage: tuple[int, int] = (3, 2)
    ) -> bytes:
        """Return all the events of a whole answer."""
        said = b"".join(self.text(text) for text in texts)
        return said + self.ended(reason) + self.used(*usage) + self.done


def event(content: object) -> bytes:
    """Return an event as servers of all kinds send them."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def _openai_text(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def _openai_used(asked: int, answered: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": asked, "completion_tokens": answered}})


def _openai_ended(reason: Reason) -> bytes:
    word = "a reason of their own" if reason == "other" else reason
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": word}]})


def _openai_error(status: int, message: str) -> bytes:
    return event({"error": {"message": message, "code": status}})


def _openai_refusal(code: str, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": code}}).encode()


DIALECTS: Final = (
    Dialect(
        name="openai",
        words=OpenAI(),
        path="/v1/chat/completions",
        text=_openai_text,
        used=_openai_used,
        ended=_openai_ended,
        done=b"data: [DONE]\n\n",
        error_event=_openai_error,
        refusal=_openai_refusal,
    ),
)

MODEL: Final = ModelSettings(
    identifier="m", provider="up", upstream="upstream-m", first_token_seconds=0.4
)
