"""An upstream in memory: every request is answered with the same chunks, and no socket is opened.

For tests that call thousands of times. Its only failure is a connection that breaks off.
"""

from collections.abc import AsyncIterator

import httpx
from typing_extensions import override

from worker.providers.aiohttp_transport import STREAM_CUT, TransportError


class MemoryTransport(httpx.AsyncBaseTransport):
    """A transport of httpx; `reads` are what the next answer's body comes in."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.is_cut = False

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reads = _ReadStream(self.reads, is_cut=self.is_cut)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=reads)


class _ReadStream(httpx.AsyncByteStream):
    def __init__(self, reads: list[bytes], *, is_cut: bool) -> None:
        self._reads = reads
        self._is_cut = is_cut

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for read in self._reads:
            yield read
        if self._is_cut:
            raise TransportError(STREAM_CUT, "the connection was cut")
