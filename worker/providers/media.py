"""What all dialects read alike of media: bytes in base64, and sound that comes in pieces.

Owns what makes of samples a file that every player knows: a WAV of one channel.
"""

from base64 import b64decode
from collections.abc import Sequence
from typing import Final

import msgspec

from shared.media.formats import WAV, wav
from worker.providers.contract import GeneratedMedia
from worker.providers.sse import MEDIA_EVENT_BYTES_MAX, TooLargeError

# What upstreams send where they do not say.
_SAMPLES_PER_SECOND: Final = 24_000


def decode_base64(text: str) -> bytes:
    """Return what base64 says. Raises ValidationError."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise msgspec.ValidationError("what should be base64 is none") from None


class AudioSamples:
    """Samples of 16 bits, as many as have come; `rate` is how many a second has."""

    def __init__(self) -> None:
        self._samples = bytearray()
        self._rate = _SAMPLES_PER_SECOND

    def add_piece(self, piece: bytes, rate: int | None = None) -> None:
        """Add a piece. Raises TooLargeError."""
        self._rate = rate or self._rate
        self._samples += piece
        if len(self._samples) > MEDIA_EVENT_BYTES_MAX:
            raise TooLargeError

    def complete(self) -> Sequence[GeneratedMedia]:
        """Return the sound, if there is one, and begin anew."""
        if not self._samples:
            return ()
        content = wav(bytes(self._samples), self._rate)
        self._samples.clear()
        return (GeneratedMedia("audio", WAV.media_type, content),)
