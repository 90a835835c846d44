"""How a submission is stored: as it is, or compressed if it is long."""

import zlib
from typing import Final

import msgspec
import pytest

from shared.wire import submission as submissions
from shared.wire.conversation import (
    CallPart,
    ImagePart,
    Message,
    OpaquePart,
    TextPart,
    ToolChoice,
    ToolDefinition,
)
from shared.wire.submission import Submission

_PLAIN: Final = Submission(session="s", request_id="r")
_LONG: Final = Submission(
    session="s",
    conversation=(
        Message(role="user", parts=(TextPart("How many bears? " * 1_000), ImagePart("https://e"))),
        Message(
            role="assistant",
            parts=(OpaquePart("gemini", {"a": [1]}, "google"), CallPart("c", "f", '{"n":')),
        ),
        Message(role="tool", parts=(), call_id="c", is_error=True),
    ),
    tools=(ToolDefinition(name="f", parameters={"type": "object"}, is_strict=True),),
    tool_choice=ToolChoice("named", "f"),
)


@pytest.mark.parametrize("submission", [_PLAIN, _LONG])
def test_stored_submission_is_read_as_it_was(submission: Submission) -> None:
    assert submissions.decode(submissions.encode(submission)) == submission


def test_plain_submission_is_stored_as_older_versions_store_it() -> None:
    packed = msgspec.msgpack.encode(_PLAIN)
    assert submissions.encode(_PLAIN) == packed
    assert submissions.decode(packed) == _PLAIN


def test_long_submission_takes_a_fraction_of_its_bytes() -> None:
    packed = msgspec.msgpack.encode(_LONG)
    assert len(submissions.encode(_LONG)) < len(packed) / 10
    assert submissions.decode(packed) == _LONG


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\xc1",
        b"\xc1no zlib",
        submissions.encode(_LONG)[:-5],
        b"\xc1" + zlib.compress(b"\x00" * 64 * 1024 * 1024),
        b"\xc1" + zlib.compress(b"no MessagePack"),
    ],
    ids=["empty", "marker", "garbage", "cut", "bomb", "text"],
)
def test_what_cannot_be_read_is_an_error(stored: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        submissions.decode(stored)


def test_the_options_of_the_answer_are_stored_where_they_always_were() -> None:
    """Versions that run side by side read each other's: one flat map, without what is usual."""
    assert msgspec.msgpack.decode(submissions.encode(_PLAIN)) == {"session": "s", "request_id": "r"}
    stored = {
        "session": None,
        "conversation": [{"role": "user", "parts": [{"type": "text", "text": "Noon?"}]}],
        "tools": [{"name": "f", "parameters": {"type": "object"}}],
        "tool_choice": {"mode": "required"},
        "sampling": {"temperature": 0.5},
        "form": {"kind": "json_object"},
    }
    read = submissions.decode(msgspec.msgpack.encode(stored))
    assert (read.tool_choice.mode, read.form.kind) == ("required", "json_object")
    assert msgspec.msgpack.decode(submissions.encode(read)) == stored
