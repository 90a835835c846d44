"""Images and sounds that models make: requested, read in each dialect's form, and bounded."""

import base64
import io
import json
import wave
from typing import Any, Final

import msgspec
import pytest

from shared.settings import Capability, ModelSettings
from tests.worker.providers import gemini, openai
from tests.worker.providers.calls import REQUEST, Call, Received, connect, listen
from tests.worker.providers.dialect_row import MODEL, Dialect, event
from tests.worker.providers.memory_upstream import MemoryTransport
from tests.worker.providers.upstream import whole
from worker.providers.contract import (
    ChatRequest,
    Ended,
    GeneratedMedia,
    Part,
    Reasoning,
    ReportedUsage,
    Text,
)
from worker.providers.sse import (
    BODY_BYTES_MAX,
    EVENT_BYTES_MAX,
    MEDIA_BODY_BYTES_MAX,
    MEDIA_EVENT_BYTES_MAX,
)

_PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
_SAMPLES: Final = bytes(range(100))
_OPENAI: Final = pytest.mark.parametrize("dialect", [openai.ROW], ids=["openai"], indirect=True)
_GEMINI: Final = pytest.mark.parametrize("dialect", [gemini.ROW], ids=["gemini"], indirect=True)
_MAKERS: Final = pytest.mark.parametrize(
    "dialect", [openai.ROW, gemini.ROW], ids=["openai", "gemini"], indirect=True
)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _delta(**delta: object) -> bytes:
    return openai.chunk({"index": 0, "delta": delta, "finish_reason": None})


def _picture(url: str) -> bytes:
    return _delta(images=[{"type": "image_url", "image_url": {"url": url}}])


def _blob(kind: str, content: bytes, **more: object) -> bytes:
    return gemini.chunk({"inlineData": {"mimeType": kind, "data": _base64(content)}, **more})


def _shown(dialect: Dialect, content: bytes) -> bytes:
    """Return the event by which an upstream of a dialect shows a picture."""
    if dialect.name == "gemini":
        return _blob("image/png", content)
    return _picture(f"data:image/png;base64,{_base64(content)}")


def _asking(*capabilities: Capability) -> ChatRequest:
    model: ModelSettings = msgspec.structs.replace(MODEL, capabilities=capabilities)
    return msgspec.structs.replace(REQUEST, model=model)


def _said(received: Received) -> list[Part]:
    assert received.error is None
    return [part for part in received.parts if not isinstance(part, ReportedUsage)]


@_MAKERS
async def test_an_image_is_received_whole_and_in_its_place(call: Call) -> None:
    said = call.dialect
    shown = said.text("Here: ") + _shown(said, _PNG) + said.text("!")
    received = await call(whole(said.framed(shown, "stop", (3, 2))), _asking("image_output"))
    picture = GeneratedMedia("image", "image/png", _PNG)
    assert _said(received) == [Text("Here: "), picture, Text("!"), Ended("stop")]


@_MAKERS
@pytest.mark.parametrize("reads", [1, 1_000, 65_536])
async def test_a_large_image_in_pieces_is_the_same(dialect: Dialect, reads: int) -> None:
    content = _PNG * (20 if reads == 1 else 8_000)
    data = dialect.framed(_shown(dialect, content), "stop", (3, 2))
    memory = MemoryTransport()
    memory.reads = [data[at : at + reads] for at in range(0, len(data), reads)]
    provider = connect(dialect, "http://127.0.0.1:9/v1", lines=memory)
    received = await listen(provider, _asking("image_output"))
    await provider.close()
    assert _said(received) == [GeneratedMedia("image", "image/png", content), Ended("stop")]


@_MAKERS
@pytest.mark.parametrize(
    ("capability", "most"),
    [("json", EVENT_BYTES_MAX), ("image_output", MEDIA_EVENT_BYTES_MAX)],
)
async def test_only_those_that_make_media_may_send_long_lines(
    dialect: Dialect, capability: Capability, most: int
) -> None:
    memory = MemoryTransport()
    provider = connect(dialect, "http://127.0.0.1:9/v1", lines=memory)
    for size, code in ((most - 1_000, None), (most + 100_000, "RESPONSE_TOO_LARGE")):
        line = event({"padding": "x" * size})
        memory.reads = [line[at : at + 65_536] for at in range(0, len(line), 65_536)]
        memory.reads.append(dialect.answer("Two"))
        received = await listen(provider, _asking(capability))
        assert (received.error.failure.code if received.error else None) == code
    await provider.close()


@_MAKERS
@pytest.mark.parametrize(
    ("capability", "most"),
    [("json", BODY_BYTES_MAX), ("audio_output", MEDIA_BODY_BYTES_MAX)],
)
async def test_all_of_an_answer_is_bounded(
    dialect: Dialect, capability: Capability, most: int
) -> None:
    memory = MemoryTransport()
    line = event({"padding": "x" * 500_000})
    provider = connect(dialect, "http://127.0.0.1:9/v1", lines=memory)
    memory.reads = [line] * (most // len(line) + 2)
    received = await listen(provider, _asking(capability))
    await provider.close()
    assert received.fault == ("provider_error", "RESPONSE_TOO_LARGE", "never")


@_MAKERS
async def test_an_image_that_is_no_base64_is_a_fault_of_the_stream(call: Call) -> None:
    said = call.dialect
    shown = _shown(said, _PNG).replace(b"iVBOR", b"iV*OR")
    received = await call(whole(said.framed(shown, "stop", (3, 2))), _asking("image_output"))
    assert received.fault == ("provider_error", "MALFORMED_STREAM", "backoff")


@_OPENAI
@pytest.mark.parametrize(
    "shown",
    [
        _picture("https://example.org/a.png"),
        _picture("data:text/html;base64,PGI+"),
        _picture("data:image/png,plain"),
        _picture(""),
        _delta(images=[]),
        _delta(images=None, audio=None),
        _delta(images=[{"type": "image_url"}]),
        _delta(images=[{"image_url": {"url": None}}]),
        _delta(audio={"id": "a", "expires_at": 1}),
        _delta(audio={"data": "", "transcript": ""}),
    ],
    ids=str,
)
async def test_what_shows_no_image_says_nothing(call: Call, shown: bytes) -> None:
    received = await call(whole(call.dialect.framed(shown, "stop", (3, 2))))
    assert _said(received) == [Ended("stop")]


@_GEMINI
@pytest.mark.parametrize(
    "shown",
    [
        _blob("image/png", _PNG, thought=True),
        _blob("image/png", b""),
        _blob("video/mp4", b"x"),
        _blob("", b"x"),
        gemini.chunk({"inlineData": {}}),
        gemini.chunk({"inlineData": None}),
        gemini.chunk({"fileData": {"fileUri": "https://example.org/a"}}),
    ],
    ids=["thought", "nothing", "film", "no type", "empty", "null", "elsewhere"],
)
async def test_what_is_not_for_the_answer_is_left_out(call: Call, shown: bytes) -> None:
    received = await call(whole(call.dialect.framed(shown, "stop", (3, 2))))
    assert _said(received) == [Ended("stop")]


def _sound(received: Received) -> tuple[int, bytes]:
    """Return the rate and the samples of the one sound, which comes right before the end."""
    *_, made, end = _said(received)
    assert end == Ended("stop")
    assert isinstance(made, GeneratedMedia)
    assert (made.kind, made.media_type) == ("audio", "audio/wav")
    with wave.open(io.BytesIO(made.content)) as read:
        assert (read.getnchannels(), read.getsampwidth()) == (1, 2)
        return read.getframerate(), read.readframes(10_000)


@_OPENAI
async def test_a_sound_comes_in_pieces_and_its_words_are_text(call: Call) -> None:
    pieces = [
        _delta(audio={"id": "a", "transcript": "Two "}),
        _delta(audio={"id": "a", "data": _base64(_SAMPLES[:50])}),
        _delta(audio={"data": _base64(_SAMPLES[50:]), "transcript": "bears."}),
        _delta(audio={"expires_at": 1}),
    ]
    said = call.dialect.framed(b"".join(pieces), "stop", (3, 2))
    received = await call(whole(said), _asking("audio_output"))
    assert received.text == "Two bears."
    assert _sound(received) == (24_000, _SAMPLES)


@_OPENAI
async def test_a_sound_after_the_end_takes_nothing_from_the_answer(call: Call) -> None:
    said = openai.ended("stop") + _delta(audio={"data": _base64(_SAMPLES)})
    received = await call(whole(said), _asking("audio_output"))
    assert (received.parts, received.error) == ([Ended("stop")], None)


@_GEMINI
@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("audio/L16;codec=pcm;rate=16000", 16_000),
        ("audio/pcm; rate=48000", 48_000),
        ("audio/L16", 24_000),
    ],
)
async def test_bare_samples_become_one_sound(call: Call, kind: str, rate: int) -> None:
    said = _blob(kind, _SAMPLES[:50]) + _blob(kind, _SAMPLES[50:])
    received = await call(whole(call.dialect.framed(said, "stop", (3, 2))), _asking("audio_output"))
    assert _sound(received) == (rate, _SAMPLES)


@_GEMINI
async def test_a_sound_of_another_form_is_received_unchanged(call: Call) -> None:
    said = _blob("audio/mpeg", b"ID3 and more")
    received = await call(whole(call.dialect.framed(said, "stop", (3, 2))), _asking("audio_output"))
    assert _said(received) == [
        GeneratedMedia("audio", "audio/mpeg", b"ID3 and more"),
        Ended("stop"),
    ]


@_GEMINI
async def test_images_and_thoughts_keep_their_order(call: Call) -> None:
    said = gemini.chunk({"text": "Hm", "thought": True}) + _blob("image/webp", b"x")
    received = await call(whole(call.dialect.framed(said, "stop", (3, 2))), _asking("image_output"))
    assert _said(received) == [
        Reasoning("Hm"),
        GeneratedMedia("image", "image/webp", b"x"),
        Ended("stop"),
    ]


# What is asked


async def _sent(call: Call, *capabilities: Capability) -> dict[str, Any]:
    received = await call(whole(call.dialect.answer("Two")), _asking(*capabilities))
    assert received.error is None
    sent: dict[str, Any] = json.loads(call.upstream.lines[-1].request.partition(b"\r\n\r\n")[2])
    return sent


@_OPENAI
async def test_openai_is_asked_by_modalities(call: Call) -> None:
    assert not {"modalities", "audio"} & (await _sent(call, "vision", "tools")).keys()
    assert (await _sent(call, "image_output"))["modalities"] == ["image", "text"]
    sent = await _sent(call, "audio_output")
    assert sent["modalities"] == ["text", "audio"]
    assert sent["audio"] == {"voice": "alloy", "format": "pcm16"}


@_GEMINI
async def test_gemini_is_asked_by_response_modalities(call: Call) -> None:
    assert "responseModalities" not in (await _sent(call, "vision"))["generationConfig"]
    config = (await _sent(call, "image_output"))["generationConfig"]
    assert config["responseModalities"] == ["TEXT", "IMAGE"]
    config = (await _sent(call, "audio_output"))["generationConfig"]
    assert config["responseModalities"] == ["AUDIO"]
