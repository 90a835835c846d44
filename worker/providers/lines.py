"""The lines to an upstream: each call has one for itself, and leaves it to the next.

Owns the idle ones, of which the last used goes first. Refuses to queue: how many calls there are at
once is the worker's to bound.

DESIGN. The pool of httpcore looks at every connection, and for every idle one at every other, each
time a call begins and ends: with 32 calls at once that was half of the CPU that a short answer took.
A transport of one line has nothing to look through.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx
from typing_extensions import override

_ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1)
_IDLE_MAX: Final = 64


class Lines(httpx.AsyncBaseTransport):
    """A transport that calls never wait for each other in."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)
        self._idle: list[httpx.AsyncHTTPTransport] = []

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a line that is free, or on a new one; it is free again once closed."""
        line = self._idle.pop() if self._idle else self._new()
        try:
            response = await line.handle_async_request(request)
        except BaseException:
            await line.aclose()
            raise
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError
        response.stream = _Returned(response.stream, lambda: self._leave(line))
        return response

    @override
    async def aclose(self) -> None:
        """Close the idle lines."""
        while self._idle:
            await self._idle.pop().aclose()

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=_ONE)

    async def _leave(self, line: httpx.AsyncHTTPTransport) -> None:
        if len(self._idle) < _IDLE_MAX:
            self._idle.append(line)
        else:
            await line.aclose()


class _Returned(httpx.AsyncByteStream):
    """A response's bytes, whose end gives the line back."""

    def __init__(self, stream: httpx.AsyncByteStream, leave: Callable[[], object]) -> None:
        self._stream = stream
        self._leave = leave

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    @override
    async def aclose(self) -> None:
        await self._stream.aclose()
        await self._leave()
