"""The events that the Redis stream does not store: all of an answer, finished or not."""

from typing import Final

from api.follow import stream_events
from shared.wire.generation import Generation
from shared.wire.message import AssistantMessage, Citation, Media

_MEDIA: Final = tuple(
    Media(kind, f"https://example.org/{kind}") for kind in ("image", "video", "audio")
)
_RUNNING: Final = Generation(
    id="g",
    session="s",
    turn=1,
    lane="interactive",
    stage="generating",
    model="alpha",
    attempt=1,
    accepted=0,
    text="Two",
)
_ENDED: Final = Generation(
    id="g",
    session="s",
    turn=1,
    lane="interactive",
    stage="completed",
    model="alpha",
    attempt=1,
    accepted=0,
    finished=1,
    text="Two bears",
    assistant=AssistantMessage(
        status="completed",
        content="Two bears",
        created=0,
        reasoning="Hm",
        media=_MEDIA,
        citations=(Citation("https://example.org", "Bears"),),
    ),
)


def _as_it_is(media: Media) -> Media:
    return media


def test_a_snapshot_has_text_reasoning_and_media() -> None:
    end = stream_events.end(_ENDED, _as_it_is)
    assert isinstance(end, stream_events.Completed)
    assert (end.message.content, end.message.reasoning_content) == ("Two bears", "Hm")
    assert end.message.image_urls == ["https://example.org/image"]
    assert end.message.video_urls == ["https://example.org/video"]
    assert end.message.audio_urls == ["https://example.org/audio"]
    assert end.message.citations == [Citation("https://example.org", "Bears")]
    assert stream_events.snapshot(_ENDED, _as_it_is) == stream_events.Snapshot(
        text="Two bears", reasoning="Hm", media=_MEDIA
    )


def test_a_snapshot_under_way_has_the_text_so_far() -> None:
    message = stream_events.message(_RUNNING, _as_it_is)
    assert (message.content, message.reasoning_content) == ("Two", None)
    assert message.citations == []
    assert (message.image_urls, message.video_urls, message.audio_urls) == ([], [], [])
    assert stream_events.snapshot(_RUNNING, _as_it_is) == stream_events.Snapshot(text="Two")
