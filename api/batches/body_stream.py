"""A body as it arrives: unpacked, in blocks, with a minimum rate instead of a whole time.

Owns the rate, the bound on the unpacked size, and the hash of what arrived. Keeps nothing: the
client sends on only as fast as blocks are taken.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.types import Message

from api.batches.gzip_stream import BLOCK_BYTES, GzipUnpacker
from api.server import disconnect
from shared.clock import Clock
from shared.errors import Code, RequestError, UnavailableError

# A sender brings at least so much in each such time, in which only waits for it count.
RATE_SECONDS: Final = 30.0
RATE_BYTES: Final = 30 * 1_024


class BodyStream:
    """The body of one request, of at most `bytes_max` bytes when it is unpacked.

    `length` is its Content-Length, 0 where it has none; `hash_prefix` is what the hash covers
    beside the body.
    """

    def __init__(
        self,
        request: Request,
        clock: Clock,
        *,
        length: int,
        bytes_max: int,
        is_gzip: bool,
        hash_prefix: bytes,
    ) -> None:
        self._request = request
        self._clock = clock
        self._length = length
        self._loaded: list[bytes] | None = None
        self._bytes_max = bytes_max
        self._unpacker = GzipUnpacker() if is_gzip else None
        self._hash = hashlib.sha256(hash_prefix)
        self._size = 0
        self._is_shutdown = False
        self._timeout: asyncio.Timeout | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of what has arrived."""
        return self._hash.hexdigest()[:32]

    async def load_short(self) -> None:
        """Read a short body whole: a refusal then leaves nothing of it to be sent.

        Raises as `blocks`.
        """
        if 0 < self._length <= BLOCK_BYTES:
            self._loaded = [part async for part in self._parts()]

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the body, unpacked.

        Raises:
            RequestError: PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT (too slow, or cut off), INVALID_FIELDS
                (not valid gzip).
            UnavailableError: The process ends.

        """
        async for part in self._source():
            if self._unpacker is None:
                for first in range(0, len(part), BLOCK_BYTES):
                    yield self._note(part[first : first + BLOCK_BYTES])
            else:
                for block in self._unpacker.feed(part):
                    yield self._note(block)
        if self._unpacker is not None:
            self._unpacker.finish()

    def _note(self, block: bytes) -> bytes:
        self._size += len(block)
        if self._size > self._bytes_max:
            raise RequestError(
                f"The body is larger than {self._bytes_max} bytes.", Code.PAYLOAD_TOO_LARGE
            )
        self._hash.update(block)
        return block

    async def _source(self) -> AsyncIterator[bytes]:
        if self._loaded is None:
            async for part in self._parts():
                yield part
            return
        for part in self._loaded:
            yield part

    async def _parts(self) -> AsyncIterator[bytes]:
        """Yield what arrives, as long as enough of it does."""
        disconnect.listen(
            self._request.scope, on_disconnect=lambda: None, on_shutdown=self._on_shutdown
        )
        waited, size, is_whole = 0.0, 0, False
        while not is_whole:
            began = self._clock.monotonic()
            message = await self._receive(RATE_SECONDS - waited)
            waited += self._clock.monotonic() - began
            part = message.get("body", b"")
            size += len(part)
            is_whole = not message.get("more_body", False)
            if waited >= RATE_SECONDS and not is_whole:
                if size < RATE_BYTES:
                    raise _too_slow()
                waited, size = 0.0, 0
            if part:
                yield part

    async def _receive(self, seconds: float) -> Message:
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                message = await self._request.receive()
        except TimeoutError:
            raise (_shutting_down() if self._is_shutdown else _too_slow()) from None
        if self._is_shutdown:
            raise _shutting_down()
        if message["type"] == "http.disconnect":
            raise RequestError("The body did not arrive whole.", Code.REQUEST_TIMEOUT)
        return message

    def _on_shutdown(self) -> None:
        self._is_shutdown = True
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())


def _shutting_down() -> UnavailableError:
    return UnavailableError("The server is shutting down.")


def _too_slow() -> RequestError:
    return RequestError(
        f"The body brought fewer than {RATE_BYTES} bytes in {RATE_SECONDS:g} s.",
        Code.REQUEST_TIMEOUT,
    )
