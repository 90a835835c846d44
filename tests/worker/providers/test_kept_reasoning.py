"""Reasoning that an upstream wants back: from its answer to the request with the tools' results."""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest

from shared.settings import ModelSettings
from shared.wire.conversation import CallPart, OpaquePart, TextPart, ToolChoice, ToolDefinition
from tests.worker.providers import anthropic, gemini, openai
from tests.worker.providers.anthropic import begun, closed, ended, grown, started
from tests.worker.providers.calls import Call
from tests.worker.providers.dialect_row import MODEL, Dialect
from tests.worker.providers.messages import calling, result
from tests.worker.providers.upstream import whole
from worker.providers.contract import (
    ChatMessage,
    ChatRequest,
    MessagePart,
    Part,
    Text,
    text_message,
)

_TOOL: Final = ToolDefinition(name="look")
_ASKED: Final = text_message("user", "How many bears?")
_CALL: Final = CallPart("c1", "look", "{}")


def _request(*messages: ChatMessage, **fields: object) -> ChatRequest:
    request = ChatRequest(
        model=MODEL, messages=[_ASKED, *messages], max_tokens=4096, tools=(_TOOL,)
    )
    return msgspec.structs.replace(request, **fields)


def _said(parts: Sequence[Part]) -> ChatMessage:
    """Return the assistant's message that an answer becomes."""
    kept: list[MessagePart] = []
    for part in parts:
        if isinstance(part, Text):
            kept.append(TextPart(part.text))
        elif isinstance(part, (CallPart, OpaquePart)):
            kept.append(part)
    return ChatMessage("assistant", tuple(kept))


async def _sent_back(call: Call, *answer: bytes) -> dict[str, Any]:
    """Return the request that follows an answer which calls a tool."""
    received = await call(whole(*answer), _request())
    assert received.error is None
    request = _request(_said(received.parts), result("c1", "two"))
    body: dict[str, Any] = json.loads(call.dialect.words.body(request))
    return body


# Anthropic


_THOUGHT: Final = {"type": "thinking", "thinking": "Bears: two.", "signature": "ErUBabc=="}
_REDACTED: Final = {"type": "redacted_thinking", "data": "EmwKAhgB"}
_CLAUDE: Final = (
    started(input_tokens=20, output_tokens=1),
    begun(0, type="thinking", thinking="", signature=""),
    grown("thinking_delta", 0, thinking="Bears: "),
    grown("thinking_delta", 0, thinking="two."),
    grown("signature_delta", 0, signature="ErUBabc=="),
    closed(0),
    begun(1, type="redacted_thinking", data="EmwKAhgB"),
    closed(1),
    begun(2, type="text", text=""),
    grown("text_delta", 2, text="I look."),
    closed(2),
    begun(3, type="tool_use", id="c1", name="look", input={}),
    closed(3),
    ended("tool_calls", output_tokens=41),
    anthropic.DONE,
)


@pytest.mark.parametrize("dialect", [anthropic.ROW], indirect=True, ids=["anthropic"])
async def test_blocks_of_thinking_go_back_before_the_calls(call: Call) -> None:
    body = await _sent_back(call, *_CLAUDE)
    assert body["messages"][1]["content"] == [
        _THOUGHT,
        _REDACTED,
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {}},
    ]


@pytest.mark.parametrize("dialect", [anthropic.ROW], indirect=True, ids=["anthropic"])
async def test_model_that_thought_before_it_called_thinks_on(call: Call) -> None:
    received = await call(whole(*_CLAUDE), _request())
    looking = _said(received.parts)
    thinking = {"type": "enabled", "budget_tokens": 2048}
    words = call.dialect.words

    def sent(*messages: ChatMessage, **fields: object) -> object:
        request = _request(*messages, deep_think=True, **fields)
        return json.loads(words.body(request)).get("thinking")

    assert sent() == thinking
    assert sent(looking, result("c1", "two")) == thinking
    assert sent(calling(_CALL), result("c1", "two")) is None
    # Another vendor of the same dialect cannot read what it did not write.
    other = msgspec.structs.replace(MODEL, provider="another")
    assert sent(looking, result("c1", "two"), model=other) is None
    assert sent(tool_choice=ToolChoice("required")) is None
    assert sent(tool_choice=ToolChoice("none")) == thinking


# Gemini


_LOOKING: Final = {"functionCall": {"name": "look", "args": {}, "id": "c1"}}


@pytest.mark.parametrize("dialect", [gemini.ROW], indirect=True, ids=["gemini"])
async def test_signature_goes_back_on_the_part_that_it_signs(call: Call) -> None:
    body = await _sent_back(
        call,
        gemini.chunk({"text": "Bears.", "thought": True, "thoughtSignature": "left out"}),
        gemini.chunk({"text": "I "}),
        gemini.chunk({"text": "look.", "thoughtSignature": "CpcA"}),
        gemini.chunk(_LOOKING | {"thoughtSignature": "CpcB"}),
        gemini.chunk({"text": ""}, reason="STOP"),
    )
    assert body["contents"][1]["parts"] == [
        {"text": "I "},
        {"text": "look."},
        {"text": "", "thoughtSignature": "CpcA"},
        _LOOKING | {"thoughtSignature": "CpcB"},
    ]


@pytest.mark.parametrize("dialect", [gemini.ROW], indirect=True, ids=["gemini"])
async def test_only_the_first_of_parallel_calls_is_signed(call: Call) -> None:
    second = {"functionCall": {"name": "look", "args": {}, "id": "c2"}}
    received = await call(
        whole(gemini.chunk(_LOOKING | {"thoughtSignature": "CpcB"}, second, reason="STOP")),
        _request(),
    )
    request = _request(_said(received.parts), result("c1", "one"), result("c2", "two"))
    contents = json.loads(call.dialect.words.body(request))["contents"]
    assert contents[1]["parts"] == [_LOOKING | {"thoughtSignature": "CpcB"}, second]


# Chat completions


def _step(**delta: object) -> bytes:
    return openai.chunk({"index": 0, "delta": delta, "finish_reason": None})


_CALLING: Final = (
    _step(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{}"}}]),
    openai.chunk({"index": 0, "delta": {}, "finish_reason": "tool_calls"}),
    openai.DONE,
)
_CHAT: Final = pytest.mark.parametrize("dialect", [openai.ROW], indirect=True, ids=["openai"])


@_CHAT
async def test_reasoning_content_goes_back_with_the_calls(call: Call) -> None:
    """As DeepSeek requires it, also where it is empty."""
    thoughts = _step(reasoning_content="Bears: "), _step(reasoning_content="two.")
    body = await _sent_back(call, *thoughts, _step(content="I look."), *_CALLING)
    looked = body["messages"][1]
    assert (looked["reasoning_content"], looked["content"]) == ("Bears: two.", "I look.")
    body = await _sent_back(call, _step(reasoning_content=""), *_CALLING)
    assert body["messages"][1]["reasoning_content"] == ""
    body = await _sent_back(call, _step(reasoning_content=None), *_CALLING)
    assert "reasoning_content" not in body["messages"][1]


@_CHAT
async def test_reasoning_details_go_back_joined(call: Call) -> None:
    """As OpenRouter sends them: in pieces, of several kinds."""

    def detail(kind: str, index: int, **fields: object) -> bytes:
        each = {"type": f"reasoning.{kind}", "index": index, "format": "x", **fields}
        return _step(reasoning="hm", reasoning_details=[each])

    body = await _sent_back(
        call,
        detail("text", 0, text="Bears: "),
        detail("text", 0, text="two.", signature=None),
        detail("text", 0, signature="sig"),
        detail("encrypted", 1, data="abc", id="e1"),
        detail("encrypted", 1, data="def", id="e2"),
        _step(content="I look."),
        *_CALLING,
    )
    common = {"format": "x"}
    assert body["messages"][1]["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, **common, "text": "Bears: two.", "signature": "sig"},
        {"type": "reasoning.encrypted", "index": 1, **common, "data": "abc", "id": "e1"},
        {"type": "reasoning.encrypted", "index": 1, **common, "data": "def", "id": "e2"},
    ]


@_CHAT
async def test_reasoning_of_an_answer_without_calls_is_not_kept(call: Call) -> None:
    ending = openai.chunk({"index": 0, "delta": {}, "finish_reason": "stop"})
    answer = _step(reasoning_content="Two."), _step(content="Two."), ending
    received = await call(whole(*answer), _request())
    assert not any(isinstance(part, OpaquePart) for part in received.parts)


# All


async def test_nothing_is_kept_where_no_tools_were_offered(call: Call) -> None:
    reasoning, text = call.dialect.reasoning("hm"), call.dialect.text("Two.")
    received = await call(whole(call.dialect.framed(reasoning + text, "stop", (3, 2))))
    assert received.error is None
    assert not any(isinstance(part, OpaquePart) for part in received.parts)


async def test_what_another_upstream_wrote_is_not_sent(call: Call) -> None:
    foreign: list[OpaquePart] = [
        OpaquePart("anthropic", _THOUGHT, "another"),
        OpaquePart("gemini", {"signs": "text", "thoughtSignature": "secret"}, "another"),
        OpaquePart("openai", {"reasoning_content": "secret"}, "another"),
        OpaquePart("unknown", {"reasoning_content": "secret"}),
    ]
    request = _request(calling(_CALL, before=foreign), result("c1", "two"))
    sent = call.dialect.words.body(request)
    assert b"secret" not in sent
    assert b"ErUBabc" not in sent


@pytest.mark.parametrize(
    ("upstream", "role", "arguments"),
    [
        ("gpt-5.2", "developer", "{"),
        ("openai/o4-mini", "developer", "{"),
        ("chatgpt-4o-latest", "developer", "{"),
        ("gpt-oss-120b", "system", '{"INVALID_JSON":"{"}'),
        ("deepseek-chat", "system", '{"INVALID_JSON":"{"}'),
    ],
)
@_CHAT
def test_only_openais_models_are_sent_what_only_they_know(
    dialect: Dialect, upstream: str, role: str, arguments: str
) -> None:
    model = ModelSettings(identifier="m", provider="up", upstream=upstream)
    messages = [
        text_message("developer", "Be brief."),
        calling(CallPart("c1", "look", "{")),
        result("c1", "no JSON"),
    ]
    request = ChatRequest(model=model, messages=messages, max_tokens=64)
    sent = json.loads(dialect.words.body(request))["messages"]
    assert sent[0]["role"] == role
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("upstream", "is_mistrals"),
    [
        ("mistral-large-latest", True),
        ("mistralai/devstral-small", True),
        ("open-mixtral-8x22b", True),
        ("gpt-4o", False),
        ("kimi-k2", False),
    ],
)
@_CHAT
def test_mistral_is_sent_ids_of_its_own_form(
    dialect: Dialect, upstream: str, *, is_mistrals: bool
) -> None:
    model = ModelSettings(identifier="m", provider="up", upstream=upstream)
    ids = ["functions.look:0", "functions.look:1", "abcDEF123"]
    calls = [CallPart(each, "look", "{}") for each in ids]
    messages = [_ASKED, calling(*calls), *(result(each, "two") for each in ids)]
    request = ChatRequest(model=model, messages=messages, max_tokens=64)
    _, called, *results = json.loads(dialect.words.body(request))["messages"]
    sent = [call["id"] for call in called["tool_calls"]]
    assert [each["tool_call_id"] for each in results] == sent
    assert len(set(sent)) == len(ids)
    assert sent[2] == ids[2]
    assert (sent == ids) == (not is_mistrals)
    assert all(len(each) == 9 and each.isalnum() for each in sent) == is_mistrals
