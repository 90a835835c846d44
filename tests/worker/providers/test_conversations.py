"""Any lawful conversation of ours, held to what each upstream is known to refuse."""

import json
from itertools import pairwise
from typing import Any, Final

from hypothesis import given, strategies as st

from shared.wire.event import ToolCall
from tests.worker.providers.dialect_row import MODEL
from worker.providers.anthropic import Anthropic
from worker.providers.contract import ChatMessage, ChatRequest, Image
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

_TEXTS: Final = st.sampled_from(["", " ", "\n\t", "Two?", " Bär\u2028 "])
_IMAGES: Final = st.lists(st.just(Image("image/png", b"\x89PNG")), max_size=2).map(tuple)
_IDS: Final = st.text(st.sampled_from("aB1_-.:é"), min_size=1, max_size=5)


@st.composite
def _turns(draw: st.DrawFn) -> list[ChatMessage]:
    """Return what a user asks, what an assistant calls, and what it answers."""
    said = [ChatMessage("user", draw(_TEXTS), images=draw(_IMAGES))]
    for number in range(draw(st.integers(0, 2))):
        count = draw(st.integers(1, 3))
        ids = [f"{draw(_IDS)}-{number}-{index}" for index in range(count)]
        calls = tuple(ToolCall(call_id, "f", {"n": 1}) for call_id in ids)
        said.append(ChatMessage("assistant", draw(_TEXTS), calls=calls))
        said += [ChatMessage("tool", draw(_TEXTS), call_id=call_id) for call_id in ids]
    return [*said, ChatMessage("assistant", draw(_TEXTS))]


@st.composite
def _conversations(draw: st.DrawFn) -> list[ChatMessage]:
    """Return a conversation: a prompt perhaps, turns, and a question or the results of calls."""
    prompt = [ChatMessage("system", draw(_TEXTS))] if draw(st.booleans()) else []
    turns = [message for turn in draw(st.lists(_turns(), max_size=3)) for message in turn]
    last = draw(_turns())[:-1]
    return [*prompt, *turns, *last]


def _sent(dialect: OpenAI | Anthropic | Gemini, messages: list[ChatMessage]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(
        dialect.body(ChatRequest(model=MODEL, messages=messages, max_tokens=64))
    )
    return body


@given(_conversations())
def test_anthropic_refuses_no_conversation(messages: list[ChatMessage]) -> None:
    sent = _sent(Anthropic(), messages)
    assert sent.get("system", "x").strip()
    roles = [message["role"] for message in sent["messages"]]
    assert roles[0] == "user"
    assert all(one != other for one, other in pairwise(roles))
    called: list[str] = []
    for message in sent["messages"]:
        assert message["content"]
        kinds = [block["type"] for block in message["content"]]
        results = [block["tool_use_id"] for block in message["content"] if "tool_use_id" in block]
        # All results of the calls before come first, in the one message that follows.
        assert results == called
        assert kinds[: len(results)] == ["tool_result"] * len(results)
        called = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        assert all(set(call_id) <= set("aB012345_-") for call_id in called)
        for block in message["content"]:
            assert block.get("text", "x").strip()
            assert block.get("content", "x").strip()
    assert not called


@given(_conversations())
def test_gemini_refuses_no_conversation(messages: list[ChatMessage]) -> None:
    contents = _sent(Gemini(), messages)["contents"]
    assert contents[0]["role"] == "user"
    called: list[str] = []
    for content in contents:
        parts = content["parts"]
        assert parts
        assert all(part.get("text", "x").strip() for part in parts)
        answered = [part["functionResponse"] for part in parts if "functionResponse" in part]
        # The results of all calls, and nothing else, make the content that follows them.
        assert [result["id"] for result in answered] == called
        assert len(answered) in {0, len(parts)}
        assert all(result["name"] == "f" for result in answered)
        calls = [part for part in parts if "functionCall" in part]
        assert ["thoughtSignature" in part for part in calls] == [True, False, False][: len(calls)]
        called = [part["functionCall"]["id"] for part in calls]
    assert not called


@given(_conversations())
def test_openai_is_sent_everything_in_its_order(messages: list[ChatMessage]) -> None:
    sent = _sent(OpenAI(), messages)["messages"]
    assert [message["role"] for message in sent] == [message.role for message in messages]
    for message, said in zip(messages, sent, strict=True):
        assert bool(said.get("tool_calls")) == bool(message.calls)
        assert message.role != "tool" or said["tool_call_id"] == message.call_id
