"""Event ids: both forms are read, and those of a stream get their generation piece by piece."""

from collections.abc import AsyncGenerator

import pytest

from api.follow import event_ids
from api.follow.ring import EventNumber, frame
from api.server.responses import EventStream
from shared.errors import Code, RequestError


def test_both_forms_are_read() -> None:
    assert event_ids.read("1-7") == (None, EventNumber(1, 7))
    assert event_ids.read("abc_-9:0-1") == ("abc_-9", EventNumber(0, 1))


@pytest.mark.parametrize(
    "text",
    ["1", "1-", "-1", "1-7 ", ":1-7", "a:b:1-7", "a b:1-7", "1-7\n", "x:", f"{'a' * 65}:1-7"],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refused:
        event_ids.read(text)
    assert refused.value.code is Code.INVALID_FIELDS


def test_follower_goes_on_after_its_own_generations_event_only() -> None:
    assert event_ids.after(None, "mine") == EventNumber(0, 0)
    assert (
        event_ids.after("2-3", "mine") == event_ids.after("mine:2-3", "mine") == EventNumber(2, 3)
    )
    with pytest.raises(RequestError):
        event_ids.after("other:2-3", "mine")


async def test_every_event_of_every_piece_is_named_and_nothing_else_is() -> None:
    # The text of an event may look like the start of another one.
    events = [b'{"type":"delta","text":"\\n\\nid: 1-1 id: 1-2"}', b'{"type":"delta","text":"b"}']
    frames = [frame(EventNumber(1, seq), event) for seq, event in enumerate(events, 1)]
    is_closed = False

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal is_closed
        try:
            yield b""
            yield b"".join(frames)
            yield b": ping\n\n"
            yield frames[0]
        finally:
            is_closed = True

    named = await event_ids.name_generation(await EventStream.begin(pieces()), "g1")
    assert named.first == b""
    heard = [piece async for piece in named.events]
    expected = [each.replace(b"id: 1-", b"id: g1:1-", 1) for each in frames]
    assert heard == [b"".join(expected), b": ping\n\n", expected[0]]
    assert is_closed


async def test_stream_that_nobody_reads_gives_back_what_it_holds() -> None:
    is_closed = False

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal is_closed
        try:
            yield b""
            yield b""
        finally:
            is_closed = True

    named = await event_ids.name_generation(await EventStream.begin(pieces()), "g1")
    await named.events.aclose()
    assert is_closed
