"""A stream's events: one line each that begins with its type, and decodes to what was encoded."""

import pytest

from shared.errors import CANCELLED
from shared.wire import event as events
from shared.wire.conversation import CallPart
from shared.wire.message import Usage

_EVENTS: list[tuple[str, events.Event]] = [
    ("stage", events.StageChanged("generating")),
    ("reasoning", events.Reasoning("Hm\n\u2028")),
    ("delta", events.Delta('"Two"\r\n')),
    ("tool_call", events.ToolCall("1", "clock", {"zone": "UTC", "at": [1, None]})),
    ("tool_call", events.ToolCall.of(CallPart("1", "clock", '{"zone":'))),
    ("tool_result", events.ToolResult("1", ok=True, summary="It is noon.")),
    ("approval_required", events.ApprovalRequired("2", "door", {}, "2026-01-01T00:00:00Z")),
    ("media", events.Media("image", "https://example.org/bear.png")),
    ("reset", events.Reset(0)),
    ("completed", events.Completed("3", Usage(input_tokens=1), None)),
    ("failed", events.Failed(CANCELLED)),
    ("cancelled", events.Cancelled()),
]


@pytest.mark.parametrize(("name", "event"), _EVENTS, ids=range(len(_EVENTS)))
def test_an_event_is_one_line_that_begins_with_its_type(name: str, event: events.Event) -> None:
    line = events.encode(event)
    assert line.startswith(f'{{"type":"{name}"')
    assert "\n" not in line
    assert "\r" not in line
    assert events.decode(line) == event


def test_call_with_an_object_is_encoded_as_older_versions_encode_it() -> None:
    line = events.encode(events.ToolCall.of(CallPart("1", "clock", '{"at": [1]}')))
    assert line == '{"type":"tool_call","call_id":"1","tool":"clock","arguments":{"at":[1]}}'


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}", "{ }"])
def test_call_without_arguments_has_an_empty_object(arguments: str) -> None:
    call = events.ToolCall.of(CallPart("1", "clock", arguments))
    assert (call.arguments, call.malformed) == ({}, "")


@pytest.mark.parametrize("arguments", ["[1]", "5", '{"a":', "[" * 100_000, '{"a":1e999}', "\udc00"])
def test_call_without_an_object_has_what_was_written(arguments: str) -> None:
    call = events.ToolCall.of(CallPart("1", "clock", arguments))
    assert (call.arguments, call.malformed) == ({}, arguments)
