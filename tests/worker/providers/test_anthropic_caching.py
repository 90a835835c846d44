"""What Anthropic is asked to keep in its cache: long beginnings that the next request repeats."""

import json
from typing import Any, Final

import msgspec
import pytest

from shared.wire.conversation import CallPart, ToolDefinition
from tests.worker.providers.dialect_row import MODEL, SCHEMA
from tests.worker.providers.messages import calling, result
from worker.providers.anthropic import Anthropic
from worker.providers.contract import ChatMessage, ChatRequest, text_message

_CLAUDE: Final = msgspec.structs.replace(MODEL, upstream="claude-opus-5-5", cache_tokens_min=200)
_MARK: Final = {"type": "ephemeral"}
# Longer than the minimum of 200 tokens, which are counted as 600 bytes.
_LONG: Final = "bear " * 130
_SYSTEM: Final = text_message("system", "You are a bear.")
_LONG_SYSTEM: Final = text_message("system", _LONG)
_QUESTION: Final = text_message("user", "How many?")
_LONG_QUESTION: Final = text_message("user", _LONG)
_ANSWER: Final = text_message("assistant", "Two.")
_TOOL: Final = ToolDefinition(name="weather", description="Tells the weather.", parameters=SCHEMA)
_LONG_TOOL: Final = ToolDefinition(name="look", description=_LONG, parameters=SCHEMA)
_CALLING: Final = calling(CallPart("c1", "look", "{}"))
_RESULT: Final = result("c1", "sunny")


def _sent(*messages: ChatMessage, model: Any = _CLAUDE, **fields: object) -> dict[str, Any]:  # noqa: ANN401  a model's settings
    request = ChatRequest(model=model, messages=list(messages), max_tokens=64)
    body: dict[str, Any] = json.loads(Anthropic().body(msgspec.structs.replace(request, **fields)))
    return body


def _marked(body: dict[str, Any]) -> list[str]:
    """Return the places with a breakpoint: tools, system prompt, and messages by their index."""
    system = body.get("system", "")
    found = {
        "tools": body.get("tools", []),
        "system": system if isinstance(system, list) else [],
        **{str(n): message["content"] for n, message in enumerate(body["messages"])},
    }
    marked = []
    for name, blocks in found.items():
        for block in blocks[:-1]:
            assert "cache_control" not in block, name
        if blocks and "cache_control" in blocks[-1]:
            assert blocks[-1]["cache_control"] == _MARK
            marked.append(name)
    assert len(marked) <= 4
    return marked


@pytest.mark.parametrize(
    ("messages", "tools", "marked"),
    [
        # A first message pays for nothing that may never be read again, however long it is.
        ([_QUESTION], (), []),
        ([_LONG_QUESTION], (), []),
        ([_SYSTEM, _QUESTION], (_TOOL,), []),
        # What every conversation begins with.
        ([_LONG_SYSTEM, _QUESTION], (), ["system"]),
        ([_SYSTEM, _QUESTION], (_TOOL, _LONG_TOOL), ["tools", "system"]),
        ([_LONG_SYSTEM, _QUESTION], (_TOOL,), ["system"]),
        ([_QUESTION], (_LONG_TOOL,), ["tools"]),
        # The history counts from the beginning of the request, and ends before the new message.
        ([_QUESTION, _ANSWER, _QUESTION], (), []),
        ([_QUESTION, _ANSWER, _LONG_QUESTION], (), []),
        ([_LONG_QUESTION, _ANSWER, _QUESTION], (), ["1"]),
        ([_LONG_SYSTEM, _QUESTION, _ANSWER, _QUESTION], (), ["system", "1"]),
        ([_LONG_QUESTION, _ANSWER, _QUESTION, _ANSWER, _QUESTION, _QUESTION], (), ["3"]),
        (
            [_LONG_SYSTEM, _QUESTION, _ANSWER, _QUESTION],
            (_LONG_TOOL,),
            ["tools", "system", "1"],
        ),
        # Within a loop of tools, the next round follows at once.
        ([_LONG_QUESTION, _CALLING, _RESULT], (_TOOL,), ["2"]),
        ([_QUESTION, _CALLING, _RESULT], (_TOOL,), []),
        ([_LONG_QUESTION, _CALLING, _RESULT, _ANSWER, _QUESTION], (_TOOL,), ["3"]),
    ],
)
def test_breakpoints_stand_where_the_next_request_will_begin_alike(
    messages: list[ChatMessage], tools: tuple[ToolDefinition, ...], marked: list[str]
) -> None:
    assert _marked(_sent(*messages, tools=tools)) == marked


@pytest.mark.parametrize(
    ("repeated", "marked"),
    [("tools", ["tools"]), ("system", ["tools", "system"]), ("history", ["tools", "system", "1"])],
)
def test_what_the_next_request_will_not_repeat_is_not_marked(
    repeated: str, marked: list[str]
) -> None:
    messages = (_LONG_SYSTEM, _LONG_QUESTION, _ANSWER, _QUESTION)
    assert _marked(_sent(*messages, tools=(_LONG_TOOL,), repeated=repeated)) == marked


def test_the_marked_request_is_the_same_request() -> None:
    messages = (_LONG_SYSTEM, _LONG_QUESTION, _ANSWER, _QUESTION)
    fields: dict[str, Any] = {"tools": (_LONG_TOOL,), "web_search": True}
    marked = _sent(*messages, **fields)
    assert _marked(marked) == ["tools", "system", "1"]
    for blocks in (marked["tools"], marked["system"], marked["messages"][1]["content"]):
        del blocks[-1]["cache_control"]
    assert marked["system"] == [{"type": "text", "text": _LONG}]
    plain = _sent(*messages, model=msgspec.structs.replace(_CLAUDE, cache_option="none"), **fields)
    assert marked | {"system": _LONG} == plain


@pytest.mark.parametrize(
    ("upstream", "option", "is_marked"),
    [
        ("claude-haiku-5-5", None, True),
        ("anthropic.claude-sonnet-5-5", None, True),
        ("claude-sonnet-5-5", "none", False),
        ("MiniMax-M3", None, False),
        ("MiniMax-M3", "breakpoints", True),
        ("glm-5.3", None, False),
    ],
)
def test_models_of_other_vendors_are_asked_only_if_the_catalogue_says_so(
    upstream: str, option: str | None, *, is_marked: bool
) -> None:
    model = msgspec.structs.replace(_CLAUDE, upstream=upstream, cache_option=option)
    body = _sent(_LONG_SYSTEM, _QUESTION, model=model)
    assert _marked(body) == (["system"] if is_marked else [])
    assert ("cache_control" in json.dumps(body)) is is_marked


def test_the_minimum_is_the_model_s() -> None:
    text = text_message("system", "b" * 3 * 1024)
    usual = msgspec.structs.replace(MODEL, upstream="claude-opus-5-5")
    assert _marked(_sent(text, _QUESTION, model=usual)) == ["system"]
    longer = msgspec.structs.replace(usual, cache_tokens_min=1025)
    assert _marked(_sent(text, _QUESTION, model=longer)) == []
