"""Media of all dialects: decodes base64, and joins the pieces of a sound.

Owns the file that raw samples become: a WAV of one channel, which every player knows.
"""

from base64 import b64decode
from collections.abc import Sequence
from typing import Final

import msgspec

from shared.media.formats import WAV, wav
from worker.providers.contract import GeneratedMedia
from worker.providers.sse import MEDIA_EVENT_BYTES_MAX, TooLargeError

# The rate of samples if the upstream names none.
_SAMPLES_PER_SECOND: Final = 24_000


def decode_base64(text: str, *, is_needed: bool) -> bytes | None:
    """Return decoded base64; None if it is invalid. Raises ValidationError if it `is_needed`."""
    try:
        return b64decode(text, validate=True)
    except ValueError:
        if is_needed:
            raise msgspec.ValidationError("media are no valid base64") from None
        return None


class AudioSamples:
    """The samples of 16 bits received so far; `rate` is the number of samples per second."""

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
        """Return the sound, if there is one, and reset."""
        if not self._samples:
            return ()
        content = wav(bytes(self._samples), self._rate)
        self._samples.clear()
        return (GeneratedMedia("audio", WAV.media_type, content),)
