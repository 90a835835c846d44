"""Any lawful conversation of ours, held to what each upstream is known to refuse."""

import json
from itertools import pairwise
from typing import Any, Final

from hypothesis import given, strategies as st

from shared.wire.conversation import CallPart, OpaquePart, Role, TextPart
from tests.worker.providers.dialect_row import MODEL
from worker.providers.anthropic import Anthropic
from worker.providers.contract import ChatMessage, ChatRequest, Image, MessagePart
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

_TEXTS: Final = st.sampled_from(["", " ", "\n\t", "Two?", " Bär\u2028 "])
_IMAGE: Final = Image("image/png", b"\x89PNG")
_IDS: Final = st.text(st.sampled_from("aB1_-.:é"), min_size=1, max_size=5)
# Also what is no object, no JSON, or deeper than any decoder goes.
_ARGUMENTS: Final = st.sampled_from(['{"n":1}', "{}", "", "[1]", '{"n":', "null", "[" * 5_000])
_INSTRUCTING: Final[st.SearchStrategy[Role]] = st.sampled_from(["system", "developer"])
_THOUGHT: Final = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
_OPAQUE: Final = st.sampled_from(
    [
        OpaquePart("anthropic", _THOUGHT, "up"),
        OpaquePart("anthropic", {"type": "redacted_thinking", "data": "x"}),
        OpaquePart("anthropic", _THOUGHT, "another"),
        OpaquePart("anthropic", {"type": "text", "text": "not theirs"}),
        OpaquePart("gemini", {"signs": "text", "thoughtSignature": "sig"}),
        OpaquePart("gemini", {"signs": "call", "thoughtSignature": "sig"}),
        OpaquePart("openai", {"reasoning_content": "Hm.", "role": "system"}),
        OpaquePart("unknown", {}),
    ]
)


@st.composite
def _pieces(draw: st.DrawFn) -> tuple[MessagePart, ...]:
    """Return texts and images in any order."""
    pieces = st.one_of(_TEXTS.map(TextPart), st.just(_IMAGE))
    return tuple(draw(st.lists(pieces, max_size=4)))


@st.composite
def _turns(draw: st.DrawFn) -> list[ChatMessage]:
    """Return what a user asks, what an assistant calls, and what it answers."""
    sent = [ChatMessage("user", draw(_pieces()))]
    for _ in range(draw(st.integers(0, 2))):
        # Different messages may use the same ids, and some look alike in other characters.
        ids = draw(st.lists(_IDS, min_size=1, max_size=3, unique=True))
        before: list[MessagePart] = [*draw(st.lists(_OPAQUE, max_size=2)), TextPart(draw(_TEXTS))]
        calls: list[MessagePart] = []
        for call_id in ids:
            calls.append(CallPart(call_id, "f", draw(_ARGUMENTS)))
            calls += draw(st.lists(_OPAQUE, max_size=1))
        sent.append(ChatMessage("assistant", (*before, *calls)))
        sent += [
            ChatMessage("tool", draw(_pieces()), call_id=call_id, is_error=draw(st.booleans()))
            for call_id in ids
        ]
    if draw(st.booleans()):
        sent.append(ChatMessage(draw(_INSTRUCTING), (TextPart("Go."),)))
    opaque = draw(st.lists(_OPAQUE, max_size=1))
    return [*sent, ChatMessage("assistant", (*opaque, TextPart(draw(_TEXTS))))]


@st.composite
def _conversations(draw: st.DrawFn) -> list[ChatMessage]:
    """Return a conversation: a prompt perhaps, turns, and a question or the results of calls."""
    roles = draw(st.lists(_INSTRUCTING, max_size=2))
    prompts = [ChatMessage(role, (TextPart(draw(_TEXTS)),)) for role in roles]
    turns = [message for turn in draw(st.lists(_turns(), max_size=2)) for message in turn]
    last = draw(_turns())[:-1]
    return [*prompts, *turns, *last]


def _sent(dialect: OpenAI | Anthropic | Gemini, messages: list[ChatMessage]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(
        dialect.body(ChatRequest(model=MODEL, messages=messages, max_tokens=64))
    )
    return body


def _is_sendable(message: ChatMessage) -> bool:
    """Tell whether an assistant's message has text or calls."""
    return bool(message.calls or message.text.strip())


@given(_conversations())
def test_anthropic_refuses_no_conversation(messages: list[ChatMessage]) -> None:
    sent = _sent(Anthropic(), messages)
    assert sent.get("system", "x").strip()
    roles = [message["role"] for message in sent["messages"]]
    assert roles[0] == "user"
    assert all(one != other for one, other in pairwise(roles))
    called: list[str] = []
    known: list[str] = []
    for message in sent["messages"]:
        assert message["content"]
        kinds = [block["type"] for block in message["content"]]
        results = [block for block in message["content"] if "tool_use_id" in block]
        # All results of the calls before come first, in the one message that follows.
        assert [block["tool_use_id"] for block in results] == called
        assert kinds[: len(results)] == ["tool_result"] * len(results)
        called = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        assert all(set(call_id) <= set("aB1_-23456789") for call_id in called)
        known += called
        for block in message["content"]:
            _check_block(block)
    assert not called
    assert len(set(known)) == len(known)
    thoughts = [block for message in sent["messages"] for block in message["content"]]
    expected = [
        part.value
        for message in messages
        for part in message.parts
        if isinstance(part, OpaquePart) and part.dialect == "anthropic" and _is_sendable(message)
        if part.provider in {"", "up"} and part.value["type"] != "text"
    ]
    assert [block for block in thoughts if "thinking" in block["type"]] == expected


def _check_block(block: dict[str, Any]) -> None:
    """Check that Anthropic accepts a block."""
    assert block.get("text", "x").strip()
    assert isinstance(block.get("input", {}), dict)
    content = block.get("content", "x")
    if isinstance(content, str):
        assert content.strip()
    else:
        assert content
        for inner in content:
            assert inner["type"] in {"text", "image"}
            assert inner.get("text", "x").strip()


@given(_conversations())
def test_gemini_refuses_no_conversation(messages: list[ChatMessage]) -> None:
    contents = _sent(Gemini(), messages)["contents"]
    assert contents[0]["role"] == "user"
    called: list[str] = []
    for content in contents:
        parts = content["parts"]
        assert parts
        assert all("thoughtSignature" in part or part.get("text", "x").strip() for part in parts)
        answered = [part["functionResponse"] for part in parts if "functionResponse" in part]
        # The results of all calls, and nothing else, make the content that follows them.
        assert [result["id"] for result in answered] == called
        assert len(answered) in {0, len(parts)}
        assert all(result["name"] == "f" for result in answered)
        calls = [part for part in parts if "functionCall" in part]
        assert all("thoughtSignature" in part for part in calls[:1])
        assert all(isinstance(part["functionCall"]["args"], dict) for part in calls)
        called = [part["functionCall"]["id"] for part in calls]
    assert not called


@given(_conversations())
def test_openai_is_sent_everything_in_its_order(messages: list[ChatMessage]) -> None:
    sent = _sent(OpenAI(), messages)["messages"]
    shown = [message for message in sent if not _is_of_results(message)]
    roles = ["system" if message.role == "developer" else message.role for message in messages]
    assert [message["role"] for message in shown] == roles
    for message, said in zip(messages, shown, strict=True):
        calls = said.get("tool_calls") or []
        assert [call["id"] for call in calls] == [call.call_id for call in message.calls]
        for call in calls:
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert message.role != "tool" or said["tool_call_id"] == message.call_id
        assert message.role != "tool" or isinstance(said["content"], str)
    # Nothing comes between the results of the calls of one message.
    for before, after in pairwise(sent):
        assert not (_is_of_results(before) and after["role"] == "tool")
    images = json.dumps(sent).count("image_url") // 2
    assert images == sum(len(message.images) for message in messages)


def _is_of_results(message: dict[str, Any]) -> bool:
    """Tell whether a message has the images of results."""
    content = message["content"]
    first = content[0] if isinstance(content, list) else {}
    return str(first.get("text", "")).startswith("The images of the tool result")
