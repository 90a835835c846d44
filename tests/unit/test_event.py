"""A stream's events: one line each that begins with its type, and decodes to what was encoded."""

import pytest

from shared.errors import CANCELLED
from shared.wire import event as events
from shared.wire.message import Usage

_EVENTS: list[tuple[str, events.Event]] = [
    ("stage", events.StageChanged("generating")),
    ("reasoning", events.Reasoning("Hm\n\u2028")),
    ("delta", events.Delta('"Two"\r\n')),
    ("tool_call", events.ToolCall("1", "clock", {"zone": "UTC", "at": [1, None]})),
    ("tool_result", events.ToolResult("1", ok=True, summary="It is noon.")),
    ("approval_required", events.ApprovalRequired("2", "door", {}, "2026-01-01T00:00:00Z")),
    ("media", events.Media("image", "https://example.org/bear.png")),
    ("reset", events.Reset(0)),
    ("completed", events.Completed("3", Usage(input_tokens=1), None)),
    ("failed", events.Failed(CANCELLED)),
    ("cancelled", events.Cancelled()),
]


@pytest.mark.parametrize(("name", "event"), _EVENTS, ids=[name for name, _ in _EVENTS])
def test_an_event_is_one_line_that_begins_with_its_type(name: str, event: events.Event) -> None:
    line = events.encode(event)
    assert line.startswith(f'{{"type":"{name}"')
    assert "\n" not in line
    assert "\r" not in line
    assert events.decode(line) == event
