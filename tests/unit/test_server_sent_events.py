"""The frames of server-sent events, with and without the generation in their ids."""

import json
from typing import Final

from api.follow.encoders import OneToOneEncoder
from api.follow.event_ids import BEGINNING, EventNumber
from api.follow.server_sent_events import ServerSentEvents, frame
from api.wire.links import Links

_LINKS: Final = Links(poll="/poll/{generation_id}", cancel="", events="")
_PLAIN: Final = ServerSentEvents(_LINKS)
_NAMED: Final = ServerSentEvents(_LINKS, names_generation=True)


def test_the_id_of_every_event_names_the_generation_and_nothing_else_does() -> None:
    # The text of an event may look like the start of another one.
    event = b'{"type":"delta","text":"\\n\\nid: 1-1 id: 1-2"}'
    number = EventNumber(1, 2)
    assert _PLAIN.writer("g1")(number, event) == frame(number, event)
    expected = frame(number, event).replace(b"id: 1-2\n", b"id: g1:1-2\n", 1)
    assert _NAMED.writer("g1")(number, event) == expected
    assert expected.count(b"g1:") == 1


def test_a_client_at_the_beginning_gets_accepted_first() -> None:
    for encoder, event_id in ((_PLAIN, "0-1"), (_NAMED, "g1:0-1")):
        name, kind, data, *_ = encoder.head("g1", "s1", BEGINNING).decode().splitlines()
        assert (name, kind) == (f"id: {event_id}", "event: accepted")
        assert json.loads(data.removeprefix("data: ")) == {
            "type": "accepted",
            "id": "g1",
            "session_id": "s1",
            "poll_url": "/poll/g1",
        }
        assert encoder.head("g1", "s1", EventNumber(0, 1)) == b""
        assert encoder.head("g1", "s1", EventNumber(1, 1)) == b""


def test_followers_of_one_form_share_its_frames() -> None:
    encoders: set[OneToOneEncoder] = {_PLAIN, _NAMED, ServerSentEvents(_LINKS)}
    assert len(encoders) == 2


def test_a_remark_is_a_comment() -> None:
    assert _PLAIN.remark("ping") == b": ping\n\n"
