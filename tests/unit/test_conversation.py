"""Which explicit conversations are lawful, and what is said of those that are not."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, strategies as st

from shared.routing import price
from shared.wire.conversation import (
    CONVERSATION_BYTES_MAX,
    DEPTH_MAX,
    IMAGES_MAX,
    MESSAGES_MAX,
    PARTS_MAX,
    TOOLS_MAX,
    CallPart,
    ImagePart,
    Message,
    OpaquePart,
    Part,
    Role,
    TextPart,
    ToolChoice,
    ToolDefinition,
    find_fault,
    images,
    is_deeper,
    size,
)

_ASKED: Final = Message(role="user", parts=(TextPart("Two?"),))
_TOOL: Final = ToolDefinition(name="f", parameters={"type": "object"})


def _calling(*ids: str) -> Message:
    return Message(role="assistant", parts=tuple(CallPart(each, "f", "{}") for each in ids))


def _result(call_id: str, **fields: Any) -> Message:  # noqa: ANN401  of any field's type
    return Message(role="tool", parts=(TextPart("done"),), call_id=call_id, **fields)


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": [value]}
    return value


def _message(role: Role, *parts: Part, call_id: str = "") -> Message:
    return Message(role=role, parts=parts, call_id=call_id)


@st.composite
def _lawful(draw: st.DrawFn) -> list[Message]:
    """Return a lawful conversation of any shape."""
    instruction = st.sampled_from(["system", "developer"]).map(
        lambda role: msgspec.structs.replace(_ASKED, role=role)
    )
    messages: list[Message] = []
    for turn in range(draw(st.integers(0, 4))):
        messages += draw(st.lists(instruction, max_size=1))
        messages.append(_message("user", TextPart("a"), ImagePart("https://e.org"), TextPart("b")))
        ids = [f"{turn}-{number}" for number in range(draw(st.integers(0, 3)))]
        opaque = OpaquePart("anthropic", {"type": "thinking"})
        calls = _calling(*ids).parts
        text = (TextPart("Well."),) if draw(st.booleans()) or not ids else ()
        messages.append(_message("assistant", opaque, *text, *calls))
        messages += [_result(each, is_error=draw(st.booleans())) for each in draw(_any_order(ids))]
    return [*messages, _ASKED]


def _any_order(ids: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.permutations(ids)


@given(_lawful())
def test_lawful_conversation_has_no_fault(messages: list[Message]) -> None:
    assert find_fault(messages, [_TOOL], ToolChoice("named", "f")) is None
    assert len(images(messages)) == sum(message.role == "user" for message in messages[:-1])
    tokens = price.tokens_in_conversation(messages, [_TOOL])
    assert tokens >= size(messages, [_TOOL]) // 3 + price.IMAGE_TOKENS * len(images(messages))


@given(_lawful(), st.data())
def test_conversation_without_one_of_its_results_has_a_fault(
    messages: list[Message], data: st.DataObject
) -> None:
    results = [index for index, message in enumerate(messages) if message.role == "tool"]
    if results:
        left_out = data.draw(st.sampled_from(results))
        fault = find_fault([*messages[:left_out], *messages[left_out + 1 :]])
        assert fault is not None
        assert fault.problem == "has no result before the next message"
        fault = find_fault([*messages[: left_out + 1], *messages[left_out:]])
        assert fault is not None
        assert fault.problem == "already has a result"


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([], "messages"),
        ([_message("user")], "messages[0].parts"),
        ([_ASKED, _message("assistant", OpaquePart("x", {}))], "messages[1].parts"),
        ([_message("system", ImagePart("https://e.org"))], "messages[0].parts[0]"),
        ([_message("user", TextPart("a"), CallPart("c", "f", ""))], "messages[0].parts[1]"),
        ([_message("user", TextPart("a"), OpaquePart("x", {}))], "messages[0].parts[1]"),
        ([_message("assistant", ImagePart("https://e.org")), _ASKED], "messages[0].parts[0]"),
        ([_message("user", ImagePart(""))], "messages[0].parts[0].url"),
        ([_message("user", ImagePart("x" * 5_000))], "messages[0].parts[0].url"),
        ([_message("user", TextPart("a"), call_id="c")], "messages[0]"),
        ([_ASKED, _message("tool")], "messages[1].call_id"),
        ([_ASKED, _result("c")], "messages[1].call_id"),
        ([_ASKED, _calling("c")], "messages[1].parts[0]"),
        ([_ASKED, _calling("c", "d"), _result("c"), _ASKED], "messages[1].parts[1]"),
        ([_ASKED, _calling("c"), _ASKED, _result("c")], "messages[1].parts[0]"),
        ([_ASKED, _calling("c"), _result("c"), _result("c")], "messages[3].call_id"),
        ([_ASKED, _calling("c"), _result("d")], "messages[2].call_id"),
        ([_ASKED, _calling("c", "c"), _result("c")], "messages[1].parts[1].call_id"),
        ([_ASKED, _calling(""), _result("")], "messages[1].parts[0].call_id"),
        ([_ASKED, _calling("x" * 257), _result("x" * 257)], "messages[1].parts[0].call_id"),
        ([_ASKED, _message("assistant", TextPart("b"))], "messages[1]"),
        (
            [_message("assistant", TextPart("a"), OpaquePart("x", _deep(DEPTH_MAX))), _ASKED],
            "messages[0].parts[1].value",
        ),
        ([_ASKED] * (MESSAGES_MAX + 1), "messages"),
        ([_message("user", *_ASKED.parts * (PARTS_MAX + 1))], "messages"),
        ([_message("user", *[ImagePart("https://e.org")] * (IMAGES_MAX + 1))], "messages"),
        ([_message("user", TextPart("x" * (CONVERSATION_BYTES_MAX + 1)))], "messages"),
    ],
)
def test_fault_is_named_by_its_place(messages: list[Message], place: str) -> None:
    fault = find_fault(messages)
    assert fault is not None
    assert fault.place == place
    assert fault.sentence.startswith(f"The field `{place}` ")


def test_same_ids_in_different_messages_are_lawful() -> None:
    again = [_calling("c"), _result("c")]
    assert find_fault([_ASKED, *again, *again]) is None


@pytest.mark.parametrize(
    ("tools", "choice", "place"),
    [
        ([_TOOL] * 2, ToolChoice(), "tools[1].name"),
        ([ToolDefinition(name="a b")], ToolChoice(), "tools[0].name"),
        ([ToolDefinition(name="f", parameters={"type": "string"})], ToolChoice(), None),
        ([ToolDefinition(name="f", parameters=_deep(DEPTH_MAX))], ToolChoice(), None),
        ([ToolDefinition(name=f"f{n}") for n in range(TOOLS_MAX + 1)], ToolChoice(), "tools"),
        ([], ToolChoice("required"), "tool_choice"),
        ([], ToolChoice("named", "f"), "tool_choice"),
        ([_TOOL], ToolChoice("named", "g"), "tool_choice.name"),
    ],
)
def test_fault_of_tools_is_named_by_its_place(
    tools: list[ToolDefinition], choice: ToolChoice, place: str | None
) -> None:
    fault = find_fault([_ASKED], tools, choice)
    assert fault is not None
    assert fault.place == (place or "tools[0].parameters")


@pytest.mark.parametrize("choice", [ToolChoice(), ToolChoice("none")])
def test_choice_that_requires_nothing_needs_no_tools(choice: ToolChoice) -> None:
    assert find_fault([_ASKED], [], choice) is None


@pytest.mark.parametrize(("value", "levels"), [({}, 0), ({"a": 1}, 0), ([[]], 1), ({"a": [{}]}, 2)])
def test_depth_counts_objects_and_lists(value: object, levels: int) -> None:
    assert not is_deeper(value, levels)
    assert levels == 0 or is_deeper(value, levels - 1)
