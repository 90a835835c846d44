"""An upstream in memory: every request is answered with the same chunks, and no socket is opened.

For tests that call thousands of times. Its only failure is a connection that breaks off.
"""

from collections.abc import AsyncIterator

from worker.providers.aiohttp_transport import (
    STREAM_CUT,
    ResponseHead,
    TransportError,
    UpstreamRequest,
)


class MemoryTransport:
    """A transport; `reads` are what the next answer's body comes in."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.is_cut = False

    async def send(
        self, _request: UpstreamRequest, _content: bytes, *, read_seconds: float
    ) -> "tuple[ResponseHead, _ReadStream]":
        assert read_seconds > 0
        headers = [(b"content-type", b"text/event-stream")]
        return ResponseHead(200, headers), _ReadStream(self.reads, is_cut=self.is_cut)

    async def close(self) -> None:
        pass


class _ReadStream:
    def __init__(self, reads: list[bytes], *, is_cut: bool) -> None:
        self._reads = reads
        self._is_cut = is_cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for read in self._reads:
            yield read
        if self._is_cut:
            raise TransportError(STREAM_CUT, "the connection was cut")

    async def aclose(self) -> None:
        pass
