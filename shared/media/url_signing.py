"""Signed URLs of media: whoever has one may read the file until it expires.

Owns the signature: HMAC-SHA-256 over the path and the second of expiry, with a secret that all
processes of a deployment share and read once.

DESIGN. The expiry is rounded up to a step of 1/24 of the period, so that a caller who polls gets
the same URL for a while and a cached file is found again. With 86,400 s the URL changes once an
hour.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final

from shared.clock import Clock
from shared.media.files import ROOT
from shared.redis import keys
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.wire.message import Media

_SECRET_BYTES: Final = 32
_STEPS_PER_PERIOD: Final = 24
_EXPIRES: Final = re.compile(r"[0-9]{1,12}")


class UrlSigner:
    """Signs and checks URLs; `url_seconds` is how long one is valid at least."""

    def __init__(self, secret: bytes, clock: Clock, url_seconds: int) -> None:
        self._secret = secret
        self._clock = clock
        self._url_seconds = url_seconds

    def url(self, reference: str, *, seconds_min: float = 0.0) -> str:
        """Return a signed URL for a path of ours; any other URL as it is."""
        if not reference.startswith(ROOT):
            return reference
        expires = self.expires(seconds_min)
        return f"{reference}?expires={expires}&signature={self._sign(reference, str(expires))}"

    def expires(self, seconds_min: float = 0.0) -> int:
        """Return the second at which a URL signed now expires; the same for a whole step."""
        seconds = max(self._url_seconds, int(seconds_min) + 1)
        step = max(1, self._url_seconds // _STEPS_PER_PERIOD)
        return -(-(self._clock.now_ms() // 1000 + seconds) // step) * step

    def sign_media(self, media: Media) -> Media:
        """Return a record's picture or sound with a signed URL."""
        return Media(media.kind, self.url(media.url))

    def seconds_left(self, path: str, expires: str, signature: str) -> int | None:
        """Return how long a URL is still valid; None if it has expired or we did not sign it."""
        expected = self._sign(path, expires)
        is_ours = hmac.compare_digest(expected.encode(), signature.encode())
        if not is_ours or not _EXPIRES.fullmatch(expires):
            return None
        left = int(expires) - self._clock.now_ms() // 1000
        return left if left > 0 else None

    def _sign(self, path: str, expires: str) -> str:
        signed_text = f"{path}\n{expires}".encode(errors="surrogateescape")
        return hmac.new(self._secret, signed_text, hashlib.sha256).hexdigest()


async def secret(redis: Connection, settings: RedisSettings) -> bytes:
    """Return the deployment's secret; the first call creates it. Raises UnavailableError."""
    name = keys.MEDIA_SECRET(keys.system_root(settings))
    await redis.call("SET", name, secrets.token_bytes(_SECRET_BYTES), "NX")
    found: bytes = await redis.call("GET", name)
    return found
