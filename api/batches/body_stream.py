"""A body as it arrives: unpacked, in blocks, with a minimum rate instead of a whole time.

Owns the rate, the bounds on the size, packed and unpacked, and the hash of what arrived. Keeps
nothing: the client sends on only as fast as blocks are taken. Unpacking gives way to other requests
whether or not anything comes of it.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.types import Message

from api.batches.gzip_stream import BLOCK_BYTES, GzipUnpacker
from api.batches.time_slices import TimeSlices
from api.server import disconnect
from shared.clock import Clock
from shared.errors import Code, PolluxError, RequestError, UnavailableError

# A sender brings at least so much in each such time, in which only waits for it count.
RATE_SECONDS: Final = 30.0
RATE_BYTES: Final = 30 * 1_024
# How far back the present rate looks.
_PRESENT_SECONDS: Final = 5.0


class _Speed:
    """How fast a sender is at present; only time in which it is waited for counts."""

    def __init__(self) -> None:
        self._value = 0.0

    def note(self, seconds: float, size: int) -> None:
        """Note how long the next bytes took, and how many there are."""
        self._value = self.after(seconds) + size / _PRESENT_SECONDS

    def after(self, seconds: float) -> float:
        """Return the bytes a second after so many seconds in which nothing came."""
        return self._value * math.exp(-seconds / _PRESENT_SECONDS)


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
        self._size = self._received = 0
        self._speed = _Speed()
        self._waits_since: float | None = None
        self._error: PolluxError | None = None
        self.slices = TimeSlices(clock)
        self._timeout: asyncio.Timeout | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of what has arrived."""
        return self._hash.hexdigest()[:32]

    @property
    def bytes_per_second(self) -> float:
        """How fast the sender is at present."""
        waits_since = self._waits_since
        return self._speed.after(
            0.0 if waits_since is None else self._clock.monotonic() - waits_since
        )

    @property
    def seconds_left(self) -> float | None:
        """When the body has arrived at this rate; None where its length or its rate is unknown."""
        speed = self.bytes_per_second
        return max(0, self._length - self._received) / speed if self._length and speed else None

    def end(self, error: PolluxError) -> None:
        """Read no further, and raise this error in the reader."""
        self._error = self._error or error
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def load_short(self) -> None:
        """Read a short body whole: a refusal then leaves nothing of it to be sent.

        Raises as `blocks`.
        """
        if 0 < self._length <= BLOCK_BYTES:
            self._loaded = [part async for part in self._parts()]

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, unpacked.

        Raises:
            RequestError: PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT (too slow, or cut off), INVALID_FIELDS
                (not valid gzip).
            UnavailableError: The process ends.
            PolluxError: What it was ended with.

        """
        async for part in self._source():
            if self._unpacker is None:
                for first in range(0, len(part), BLOCK_BYTES):
                    yield self._note(part[first : first + BLOCK_BYTES])
                    await self.slices.give_way()
            else:
                for block in self._unpacker.feed(part):
                    if block:
                        yield self._note(block)
                    await self.slices.give_way()
        if self._unpacker is not None:
            self._unpacker.finish()

    def _note(self, block: bytes) -> bytes:
        self._size += len(block)
        self._check_size(self._size)
        self._hash.update(block)
        return block

    def _check_size(self, size: int) -> None:
        if size > self._bytes_max:
            raise RequestError(
                f"The body is larger than {self._bytes_max} bytes.", Code.PAYLOAD_TOO_LARGE
            )

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
            self._request.scope,
            on_disconnect=lambda: None,
            on_shutdown=lambda: self.end(_shutting_down()),
        )
        waited, size, is_whole = 0.0, 0, False
        while not is_whole:
            began = self._waits_since = self._clock.monotonic()
            message = await self._receive(RATE_SECONDS - waited)
            seconds, self._waits_since = self._clock.monotonic() - began, None
            part = message.get("body", b"")
            self._speed.note(seconds, len(part))
            self._received += len(part)
            self._check_size(self._received)
            waited, size = waited + seconds, size + len(part)
            is_whole = not message.get("more_body", False)
            if waited >= RATE_SECONDS and not is_whole:
                if size < RATE_BYTES:
                    raise _too_slow()
                waited, size = 0.0, 0
            if part:
                yield part

    async def _receive(self, seconds: float) -> Message:
        self._check_not_ended()
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                message = await self._request.receive()
        except TimeoutError:
            raise self._error or _too_slow() from None
        finally:
            # One that has ended cannot be rescheduled.
            self._timeout = None
        self._check_not_ended()
        if message["type"] == "http.disconnect":
            raise RequestError("The body did not arrive whole.", Code.REQUEST_TIMEOUT)
        return message

    def _check_not_ended(self) -> None:
        if self._error is not None:
            raise self._error


def _shutting_down() -> UnavailableError:
    return UnavailableError("The server is shutting down.")


def _too_slow() -> RequestError:
    return RequestError(
        f"The body brought fewer than {RATE_BYTES} bytes in {RATE_SECONDS:g} s.",
        Code.REQUEST_TIMEOUT,
    )
