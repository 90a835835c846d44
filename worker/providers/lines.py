"""The lines to an upstream: each call has one for itself and leaves it to the next.

Owns the idle ones, of which the last used goes first. Refuses to queue: how many calls there are at
once is the worker's to bound.

DESIGN. The pool of httpcore looks at every connection, and for every idle one at every other, each
time a call begins and ends: with 32 calls at once that was half the CPU that a short answer took. A
transport of one line has nothing to look through.
"""

import ssl
from collections.abc import AsyncIterator
from typing import Final, cast

import httpx
from typing_extensions import override

_ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1)
_IDLE_MAX: Final = 64


class Lines(httpx.AsyncBaseTransport):
    """A transport in which calls never wait for each other."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)
        self._idle: list[httpx.AsyncHTTPTransport] = []

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a line that is free, or on a new one; it is free again once closed.

        An idle line may be closed by the upstream in the very moment in which it is taken: what
        fails there before its answer has begun is asked once more, on a new one.
        """
        if self._idle:
            try:
                return await self._ask(self._idle.pop(), request)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                pass
        return await self._ask(self._new(), request)

    async def _ask(self, line: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        try:
            response = await line.handle_async_request(request)
        except BaseException:
            await line.aclose()
            raise
        response.stream = _Held(response, line, self._idle)
        return response

    @override
    async def aclose(self) -> None:
        """Close the idle lines."""
        while self._idle:
            await self._idle.pop().aclose()

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=_ONE)


class _Held(httpx.AsyncByteStream):
    """A response's bytes; the line is left to the next call once they were read to their end."""

    def __init__(
        self,
        response: httpx.Response,
        line: httpx.AsyncHTTPTransport,
        idle: list[httpx.AsyncHTTPTransport],
    ) -> None:
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._line: httpx.AsyncHTTPTransport | None = line
        self._idle = idle
        self._is_read = False

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece
        self._is_read = True

    @override
    async def aclose(self) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        # In the middle of an answer it is of no use, however its close was interrupted.
        is_kept = False
        try:
            await self._stream.aclose()
            is_kept = self._is_read and len(self._idle) < _IDLE_MAX
        finally:
            if is_kept:
                self._idle.append(line)
            else:
                await line.aclose()
