"""What no upstream may exceed: a stream is read through these bounds before anything parses it.

Owns the counting of bytes; a bound that is passed ends the call as a fault of the provider.
"""

from collections.abc import AsyncIterator
from typing import Final

import httpx
from typing_extensions import override

from shared.errors import Failure, ProviderError

EVENT_BYTES_MAX: Final = 1_048_576
BODY_BYTES_MAX: Final = 16_777_216
# A token comes in an event of a few hundred bytes, so a long answer may need more than the above.
_BYTES_PER_TOKEN_MAX: Final = 1_024


class BoundedStream(httpx.AsyncByteStream):
    """The bytes of a response, as long as each of its events and its whole stay within bounds.

    An event ends at a blank line, whichever way its lines end; lines and comments are parts of one.
    """

    def __init__(self, stream: httpx.AsyncByteStream, provider: str, max_tokens: int) -> None:
        self._stream = stream
        self._provider = provider
        self._bytes_max = max(BODY_BYTES_MAX, max_tokens * _BYTES_PER_TOKEN_MAX)

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks as they come; raises ProviderError at the first that passes a bound."""
        body_bytes = event_bytes = 0
        last = b""
        async for chunk in self._stream:
            body_bytes += len(chunk)
            begun = _begun(last + chunk)
            event_bytes = event_bytes + len(chunk) if begun is None else begun
            last = chunk[-1:] or last
            if event_bytes > EVENT_BYTES_MAX or body_bytes > self._bytes_max:
                raise ProviderError(
                    Failure(
                        message="The provider sent more than an answer may hold.",
                        category="provider_error",
                        code="RESPONSE_TOO_LARGE",
                        provider=self._provider,
                    )
                )
            yield chunk

    @override
    async def aclose(self) -> None:
        """Close the underlying stream."""
        await self._stream.aclose()


def _begun(data: bytes) -> int | None:
    """Return how many bytes follow the last blank line, or None: it is two line ends together."""
    at = max(data.rfind(b"\n\n"), data.rfind(b"\r\r"), data.rfind(b"\n\r"))
    return None if at < 0 else len(data) - at - 2
