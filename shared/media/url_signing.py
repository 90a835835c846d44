"""URLs of what models made: whoever has one may look, as long as it is good.

Owns the signature: HMAC-SHA-256 over the path and the second at which the URL ends, under a secret
that all processes of a deployment share and read once.

DESIGN. Ends are rounded up to whole steps, so that who polls is told the same URL for a while, and
what is cached under it stays of use.
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
    """What signs and checks; `url_seconds` is how long a URL is good at least."""

    def __init__(self, secret: bytes, clock: Clock, url_seconds: int) -> None:
        self._secret = secret
        self._clock = clock
        self._url_seconds = url_seconds

    def url(self, reference: str, *, seconds_min: float = 0.0) -> str:
        """Return a URL of a path of ours, good from now on; any other URL as it is."""
        if not reference.startswith(ROOT):
            return reference
        expires = self.expires(seconds_min)
        return f"{reference}?expires={expires}&signature={self._sign(reference, str(expires))}"

    def expires(self, seconds_min: float = 0.0) -> int:
        """Return the second at which a URL that is signed now ends: the same for a whole step."""
        seconds = max(self._url_seconds, int(seconds_min) + 1)
        step = max(1, self._url_seconds // _STEPS_PER_PERIOD)
        return -(-(self._clock.now_ms() // 1000 + seconds) // step) * step

    def sign_media(self, media: Media) -> Media:
        """Return what is told of a picture or a sound that a record refers to."""
        return Media(media.kind, self.url(media.url))

    def seconds_left(self, path: str, expires: str, signature: str) -> int | None:
        """Return how long a URL is still good; None for one that we did not sign, or is over."""
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
    """Return the deployment's secret; the first who asks makes it. Raises UnavailableError."""
    name = keys.MEDIA_SECRET(keys.system_root(settings))
    await redis.call("SET", name, secrets.token_bytes(_SECRET_BYTES), "NX")
    found: bytes = await redis.call("GET", name)
    return found
