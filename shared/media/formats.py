"""Which picture and sound formats there are, detected by their first bytes, never by a name.

Refuses formats that may hold a program (SVG), and decodes nothing.
"""

import struct
from typing import Final, NamedTuple

from shared.wire.message import MediaKind


class Format(NamedTuple):
    """A format: `media_type` is like `image/png`, `suffix` ends a file's name."""

    kind: MediaKind
    media_type: str
    suffix: str


PNG: Final = Format("image", "image/png", "png")
JPEG: Final = Format("image", "image/jpeg", "jpg")
GIF: Final = Format("image", "image/gif", "gif")
WEBP: Final = Format("image", "image/webp", "webp")
WAV: Final = Format("audio", "audio/wav", "wav")
MP3: Final = Format("audio", "audio/mpeg", "mp3")
OGG: Final = Format("audio", "audio/ogg", "ogg")
FLAC: Final = Format("audio", "audio/flac", "flac")

BY_SUFFIX: Final = {
    media_format.suffix: media_format
    for media_format in (PNG, JPEG, GIF, WEBP, WAV, MP3, OGG, FLAC)
}
# (offset, bytes): all of a format's must match.
_SIGNATURES: Final[tuple[tuple[Format, tuple[tuple[int, bytes], ...]], ...]] = (
    (PNG, ((0, b"\x89PNG\r\n\x1a\n"),)),
    (JPEG, ((0, b"\xff\xd8\xff"),)),
    (GIF, ((0, b"GIF87a"),)),
    (GIF, ((0, b"GIF89a"),)),
    (WEBP, ((0, b"RIFF"), (8, b"WEBP"))),
    (WAV, ((0, b"RIFF"), (8, b"WAVE"))),
    (MP3, ((0, b"ID3"),)),
    (MP3, ((0, b"\xff\xfb"),)),
    (MP3, ((0, b"\xff\xf3"),)),
    (OGG, ((0, b"OggS"),)),
    (FLAC, ((0, b"fLaC"),)),
)
_WAV_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_WAV_HEADER_REST_BYTES: Final = 36
_BYTES_PER_SAMPLE: Final = 2


def detect_format(content: bytes) -> Format | None:
    """Return the format of some content, or None for an unknown one."""
    for media_format, signature in _SIGNATURES:
        if all(content.startswith(mark, offset) for offset, mark in signature):
            return media_format
    return None


def wav(samples: bytes, rate: int) -> bytes:
    """Return samples (one channel, 16 bits, little-endian) as a WAV file."""
    if detect_format(samples) is WAV:
        return samples
    head = _WAV_HEADER.pack(
        b"RIFF",
        _WAV_HEADER_REST_BYTES + len(samples),
        *(b"WAVE", b"fmt ", 16, 1, 1, rate, rate * _BYTES_PER_SAMPLE, _BYTES_PER_SAMPLE, 16),
        b"data",
        len(samples),
    )
    return head + samples
