"""Where an attempt puts what its model made, and what callers are told of it.

Owns the order: the file is there before anybody hears of it. Refuses what is of no known form or
larger than a file may be; a folder that cannot be written fails the one generation, loudly.
"""

import asyncio
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.errors import Failure, ProviderError
from shared.media import formats, url_signing
from shared.media.files import MediaFiles
from shared.media.url_signing import UrlSigner
from shared.redis.client import Connection
from shared.settings import Settings
from shared.telemetry import logs
from shared.wire.message import Media

_NOT_STORED: Final = Failure(
    message="What the model made could not be kept.",
    category="internal",
    code="MEDIA_NOT_KEPT",
    severity="fatal",
    retryable=True,
)
_TOO_LARGE: Final = Failure(
    message="The model made something larger than may be kept.",
    category="provider_error",
    code="RESPONSE_TOO_LARGE",
)


class SavedMedia(NamedTuple):
    """Something that is kept: `kept` is for the record, `told` for who follows now."""

    stored: Media
    published: Media


class MediaStore:
    """The files and URLs of a deployment, as one worker makes them."""

    def __init__(self, settings: Settings, redis: Connection, clock: Clock) -> None:
        self.files = MediaFiles(settings.media.folder)
        self._settings = settings
        self._redis = redis
        self._clock = clock
        self._url_signer: UrlSigner | None = None

    async def open(self) -> None:
        """Get ready, and say at the start what would fail later. Raises UnavailableError."""
        await self._load_url_signer()
        try:
            await asyncio.to_thread(self.files.check)
        except OSError as error:
            logs.logger().error(
                "the media folder cannot be written",
                folder=str(self.files.folder),
                reason=error.strerror,
            )

    async def save(
        self, account: str, session: str, content: bytes, *, seconds_min: float
    ) -> SavedMedia | None:
        """Keep some content; its URL is good for so long at least. None if its form is unknown.

        Raises:
            ProviderError: it is too large, or cannot be written.
            UnavailableError: Redis is away, and the URLs' secret not yet known.

        """
        if len(content) > self._settings.media.file_bytes_max:
            raise ProviderError(_TOO_LARGE)
        media_format = formats.detect_format(content)
        if media_format is None:
            logs.logger().warning("a model made something of no known form", bytes=len(content))
            return None
        signer = await self._load_url_signer()
        try:
            path = await asyncio.to_thread(self.files.save, account, session, content, media_format)
        except OSError as error:
            logs.logger().error("media cannot be kept", reason=error.strerror)
            raise ProviderError(_NOT_STORED) from error
        published = Media(media_format.kind, signer.url(path, seconds_min=seconds_min))
        return SavedMedia(Media(media_format.kind, path), published)

    async def _load_url_signer(self) -> UrlSigner:
        if self._url_signer is None:
            secret = await url_signing.secret(self._redis, self._settings.redis)
            self._url_signer = UrlSigner(secret, self._clock, self._settings.media.url_seconds)
        return self._url_signer
