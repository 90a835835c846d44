"""When a chat's response is a stream: the body asks for it, or Accept prefers it."""

import pytest

from api.dialects.kombify import translate
from api.dialects.kombify.wire import ChatBody


@pytest.mark.parametrize(
    ("accept", "is_streamed"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("text/event-stream, */*", True),
        ("text/event-stream, */*;q=0.5", True),
        ("*/*, text/event-stream;q=0.9", False),
        ("application/json, text/event-stream", False),
        ("application/json;q=0.5, text/event-stream", True),
        ("application/json, text/event-stream;q=0.5", False),
        ("application/*;q=0.3, text/event-stream;q=0.4", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=nan", False),
        ("text/event-stream;q=", False),
        ("text/event-stream;q=²", False),
        (";;,,;q=1", False),
        ("text/*", False),
    ],
)
def test_accept_decides_where_the_body_is_silent(accept: str, is_streamed: bool) -> None:
    for stream in (None, False):
        assert translate.is_streamed(ChatBody(message="m", stream=stream), [accept]) == is_streamed
    assert translate.is_streamed(ChatBody(message="m", stream=True), [accept])


def test_several_fields_are_one_header() -> None:
    body = ChatBody(message="m")
    assert translate.is_streamed(body, ["text/html", "text/event-stream"])
    assert not translate.is_streamed(body, ["text/event-stream", "application/json"])
    assert not translate.is_streamed(body, [])
