"""Stored records: what an earlier version wrote can still be read."""

import msgspec

from shared.routing.choose import RoutingQuery, choose
from shared.settings import ModelSettings
from shared.wire.message import (
    AssistantMessage,
    Citation,
    Enhancement,
    Media,
    Usage,
    decode_assistant,
    encode_assistant,
)
from shared.wire.routing import StoredRouting

_MODELS = tuple(
    ModelSettings(identifier=name, provider="one", upstream=name) for name in ("alpha", "beta")
)


def test_a_stored_decision_is_restored() -> None:
    for model in ("auto", "beta", "none"):
        routing = choose(_MODELS, RoutingQuery(model=model, input_tokens=3)).routing
        message = AssistantMessage(
            status="completed", content="Hi", created=1, routing=StoredRouting.of(routing)
        )
        kept = decode_assistant(encode_assistant(message)).routing
        assert isinstance(kept, StoredRouting)
        assert kept.restored() == routing


def test_a_decision_stored_whole_by_an_older_version_is_read() -> None:
    routing = choose(_MODELS, RoutingQuery(model="auto", input_tokens=3)).routing
    record = {"status": "completed", "content": "Hi", "created": 1, "routing": routing}
    assert decode_assistant(msgspec.msgpack.encode(record)).routing == routing


class _Before(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as processes knew it before there was reasoning or media."""

    status: str
    content: str
    created: int


def test_reasoning_and_media_are_stored_and_older_versions_ignore_them() -> None:
    media = (Media("image", "https://example.org/1"),)
    message = AssistantMessage(
        status="completed", content="Hi", created=1, reasoning="Hm", media=media
    )
    record = encode_assistant(message)
    assert decode_assistant(record) == message
    before = msgspec.msgpack.decode(record, type=_Before)
    assert (before.status, before.content) == ("completed", "Hi")
    read = decode_assistant(msgspec.msgpack.encode(before))
    assert (read.reasoning, read.media) == ("", ())


def test_searches_are_stored_only_where_there_were_any() -> None:
    pages = (Citation("https://a.example", "A"), Citation("https://b.example"))
    usage = Usage(cost=7, searches=2, search_cost=5)
    message = AssistantMessage(
        status="completed", content="Hi", created=1, citations=pages, usage=usage
    )
    record = encode_assistant(message)
    assert decode_assistant(record) == message
    assert msgspec.msgpack.decode(record, type=_Before).content == "Hi"
    assert msgspec.to_builtins(Usage(cost=7)) == {"cost": 7}


def test_absent_reasoning_and_media_take_no_bytes() -> None:
    record = encode_assistant(AssistantMessage(status="completed", content="Hi", created=1))
    assert msgspec.msgpack.decode(record) == {"status": "completed", "content": "Hi", "created": 1}


def test_a_message_that_was_not_reworded_stores_one_word() -> None:
    left = Enhancement(applied=False, reason="slow")
    record = encode_assistant(
        AssistantMessage(status="completed", content="Hi", created=1, enhancement=left)
    )
    kept = msgspec.msgpack.decode(record)["enhancement"]
    assert kept == {"applied": False, "reason": "slow"}
    assert decode_assistant(record).enhancement == left
