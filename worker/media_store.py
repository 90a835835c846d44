"""Stores media that a model generated, and makes the signed URLs under which callers read it.

Owns the order: the file is written before any event names its URL. Refuses unknown formats and
files above the size limit. If the folder cannot be written, that one generation fails and an error
is logged.
"""

import asyncio
from typing import Final, NamedTuple

from shared.clock import Clock
from shared.errors import Failure, ProviderError
from shared.media import formats, url_signing
from shared.media.files import MediaFiles
from shared.media.url_signing import UrlSigner
from shared.redis import keys
from shared.redis.client import Connection
from shared.redis.functions import Claimed
from shared.settings import Settings
from shared.telemetry import logs
from shared.wire.message import Media

_NOT_STORED: Final = Failure(
    message="The media that the model made could not be stored.",
    category="internal",
    code="MEDIA_NOT_KEPT",
    severity="fatal",
    retryable=True,
)
_TOO_LARGE: Final = Failure(
    message="The model made a file larger than may be stored.",
    category="provider_error",
    code="RESPONSE_TOO_LARGE",
)


class SavedMedia(NamedTuple):
    """A stored file: `stored` has its path, for the record; `published` its URL, for the stream."""

    stored: Media
    published: Media


class MediaStore:
    """Writes media files and signs their URLs."""

    def __init__(self, settings: Settings, redis: Connection, clock: Clock) -> None:
        self.files = MediaFiles(settings.media.folder)
        self._settings = settings
        self._redis = redis
        self._clock = clock
        self._url_signer: UrlSigner | None = None

    async def open(self) -> None:
        """Load the URL secret and log whether the folder is writable. Raises UnavailableError."""
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
        """Store content; its URL is valid for at least `seconds_min`. None for unknown formats.

        Raises:
            ProviderError: the content is too large, or cannot be written.
            UnavailableError: Redis is unavailable and the URL secret is not loaded yet.

        """
        if len(content) > self._settings.media.file_bytes_max:
            raise ProviderError(_TOO_LARGE)
        media_format = formats.detect_format(content)
        if media_format is None:
            logs.logger().warning("a model sent media of an unknown format", bytes=len(content))
            return None
        signer = await self._load_url_signer()
        try:
            path = await asyncio.to_thread(self.files.save, account, session, content, media_format)
        except OSError as error:
            logs.logger().error("media cannot be kept", reason=error.strerror)
            raise ProviderError(_NOT_STORED) from error
        published = Media(media_format.kind, signer.url(path, seconds_min=seconds_min))
        return SavedMedia(Media(media_format.kind, path), published)

    async def publish(self, media: Media, *, seconds_min: float) -> Media:
        """Return stored media with a URL that is valid for at least `seconds_min`."""
        signer = await self._load_url_signer()
        return Media(media.kind, signer.url(media.url, seconds_min=seconds_min))

    async def expire_with_record(self, claimed: Claimed) -> None:
        """Let the chore `forget` delete a generation's files, in a folder of its id, in the end.

        Called before the first is written, so that none stays if this process dies.
        """
        name = f"{claimed.account}:{claimed.id}"
        await self._redis.call("ZADD", keys.EXPIRING_FILES(claimed.root), claimed.deadline_ms, name)

    async def _load_url_signer(self) -> UrlSigner:
        if self._url_signer is None:
            secret = await url_signing.secret(self._redis, self._settings.redis)
            self._url_signer = UrlSigner(secret, self._clock, self._settings.media.url_seconds)
        return self._url_signer
