"""What no upstream may exceed. A stream is read through these bounds before anything parses it.

Owns the counting of bytes; a bound that is passed ends the call as a fault of the provider.
"""

from collections.abc import AsyncIterator
from typing import Final

import httpx
from typing_extensions import override

from shared.errors import Failure, ProviderError

LINE_BYTES_MAX: Final = 1_048_576
BODY_BYTES_MAX: Final = 16_777_216


class BoundedStream(httpx.AsyncByteStream):
    """The bytes of a response, as long as its lines and its whole stay within bounds."""

    def __init__(self, stream: httpx.AsyncByteStream, provider: str) -> None:
        self._stream = stream
        self._provider = provider

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks as they come; raises ProviderError at the first that passes a bound."""
        body_bytes = line_bytes = 0
        async for chunk in self._stream:
            body_bytes += len(chunk)
            newline = chunk.rfind(b"\n")
            line_bytes = len(chunk) - newline - 1 if newline >= 0 else line_bytes + len(chunk)
            if line_bytes > LINE_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
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
