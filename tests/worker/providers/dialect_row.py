"""A row of the conformance suite: how one dialect expresses what all dialects express.

Owns the form of a row, and the requests that every dialect must express.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from shared.settings import ModelSettings
from shared.wire.conversation import (
    AUTO_CHOICE,
    DEFAULT_SAMPLING,
    FREE_TEXT,
    AnswerForm,
    CallPart,
    Sampling,
    TextPart,
    ToolChoice,
    ToolDefinition,
)
from tests.worker.providers.messages import calling, result
from worker.providers import contract
from worker.providers.contract import ChatMessage, ChatRequest, Image, text_message

# `other` is a reason of the upstream's own.
Reason = Literal["stop", "length", "content_filter", "tool_calls", "other"]
Usage = tuple[int, int]
Topic = Literal[
    "system prompt",
    "image",
    "tools",
    "deep think",
    "web search",
    "web search beside tools",
    "history of calls",
    "sampling",
    "json object",
    "json schema",
    "json schema while thinking",
    "texts and images in order",
    "failed result",
    "images of a result",
    "instructions in the middle",
    "arguments that are no object",
    "strict tool without parameters",
    "no call",
    "some call",
    "call of one tool",
]


class Dialect(NamedTuple):
    """The bytes of one dialect; every callable returns whole events or a whole body.

    `framed` makes a complete answer around its content; `call` makes one tool call, whose arguments
    come in pieces; `cited` makes a citation, and `searched` an answer with a number of searches;
    `sent` is the part of a request that expresses each topic, letter by letter.
    """

    name: str
    words: contract.Dialect
    path: str
    key_header: str
    text: Callable[[str], bytes]
    reasoning: Callable[[str], bytes]
    call: Callable[[str, str, Sequence[str], int], bytes]
    cited: Callable[[object, object], bytes]
    searched: Callable[[bytes, int], bytes]
    ended: Callable[[Reason], bytes]
    framed: Callable[[bytes, Reason, Usage], bytes]
    error_event: Callable[[int, str], bytes]
    refusal: Callable[[str, str], bytes]
    sent: Mapping[Topic, Mapping[str, Any]]
    done: bytes = b""
    counts_searches: bool = True
    has_pieces: bool = True

    @property
    def has_last_word(self) -> bool:
        """Whether an answer ends with a word of its own, and not with the stream."""
        return bool(self.done)

    def answer(self, *texts: str, reason: Reason = "stop", usage: Usage = (3, 2)) -> bytes:
        """Return all the events of a whole answer."""
        return self.framed(b"".join(self.text(text) for text in texts), reason, usage)

    def calling(self, *calls: bytes) -> bytes:
        """Return all the events of an answer that calls tools."""
        return self.framed(b"".join(calls), "tool_calls", (3, 2))


def event(content: object, name: str = "") -> bytes:
    """Return an event as servers of all kinds send them, under a name or without one."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


MODEL: Final = ModelSettings(
    identifier="m", provider="up", upstream="upstream-m", first_token_seconds=10.0
)
SCHEMA: Final = {"type": "object", "properties": {"city": {"type": "string"}}}
_QUESTION: Final = text_message("user", "How many bears?")


def _request(
    *messages: ChatMessage,
    tools: tuple[ToolDefinition, ...] = (),
    choice: ToolChoice = AUTO_CHOICE,
    think: bool = False,
    search: bool = False,
    sampling: Sampling = DEFAULT_SAMPLING,
    form: AnswerForm = FREE_TEXT,
) -> ChatRequest:
    return ChatRequest(
        model=MODEL,
        messages=list(messages),
        max_tokens=4096,
        tools=tools,
        tool_choice=choice,
        deep_think=think,
        web_search=search,
        sampling=sampling,
        form=form,
    )


_WEATHER: Final = ToolDefinition(
    name="weather", description="Tells the weather.", parameters=SCHEMA
)
_FORM: Final = AnswerForm(kind="json_schema", name="place", schema=SCHEMA, is_strict=True)
_PICTURE: Final = Image("image/png", b"\x89PNG")
_CALLED: Final = (_QUESTION, calling(CallPart("c1", "weather", '{"city":"Bern"}')))
REQUESTS: Final[dict[Topic, ChatRequest]] = {
    "system prompt": _request(text_message("system", "Be brief."), _QUESTION),
    "image": _request(text_message("user", "What is it?", [Image("image/png", b"\x89PNG")])),
    "tools": _request(_QUESTION, tools=(_WEATHER,)),
    "deep think": _request(_QUESTION, think=True),
    "web search": _request(_QUESTION, search=True),
    "web search beside tools": _request(_QUESTION, tools=(_WEATHER,), search=True),
    "history of calls": _request(
        text_message("user", "Is it warm?"),
        calling(
            CallPart("c1", "weather", '{"city":"Bärn"}'),
            CallPart("c2", "weather", '{"city":"Basel"}'),
        ),
        result("c1", "sunny"),
        result("c2", "rain"),
        text_message("assistant", "In Bärn."),
        text_message("user", "And now?"),
    ),
    "sampling": _request(
        _QUESTION, sampling=Sampling(temperature=0.0, top_p=0.5, stop=("END", "."))
    ),
    "json object": _request(_QUESTION, form=AnswerForm(kind="json_object")),
    "json schema": _request(_QUESTION, form=_FORM),
    "json schema while thinking": _request(_QUESTION, form=_FORM, think=True),
    "texts and images in order": _request(
        ChatMessage("user", (TextPart("This:"), _PICTURE, TextPart("or this:"), _PICTURE))
    ),
    "failed result": _request(*_CALLED, result("c1", "no such city", is_error=True)),
    "images of a result": _request(
        *_CALLED, result("c1", "see", [_PICTURE]), text_message("user", "So?")
    ),
    "instructions in the middle": _request(
        text_message("system", "Be brief."),
        _QUESTION,
        text_message("developer", "Count the small ones, too."),
        text_message("user", "Well?"),
    ),
    "arguments that are no object": _request(
        _QUESTION, calling(CallPart("c1", "weather", '{"city":')), result("c1", "no JSON")
    ),
    "strict tool without parameters": _request(
        _QUESTION, tools=(ToolDefinition(name="now", is_strict=True),)
    ),
    "no call": _request(_QUESTION, tools=(_WEATHER,), choice=ToolChoice("none")),
    "some call": _request(_QUESTION, tools=(_WEATHER,), choice=ToolChoice("required")),
    "call of one tool": _request(
        _QUESTION, tools=(_WEATHER,), choice=ToolChoice("named", "weather")
    ),
}
