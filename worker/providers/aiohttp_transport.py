"""The lines to an upstream: httpx's words, spoken by aiohttp.

Owns the connections, of which each call has one for itself and leaves it to the next, and the table
from aiohttp's failures to httpx's. Refuses to queue: how many calls there are at once is the
worker's to bound.

DESIGN. httpx's own transport spends 100 to 200 us of CPU on every chunk that comes by itself, as
tokens do; aiohttp, whose parser is in C, a third of that, and a third on a whole short answer.
"""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import httpx
from typing_extensions import override

_IDLE_SECONDS: Final = 15.0
_OUR_HEADERS: Final = frozenset({"accept", "accept-encoding", "user-agent", "content-type"})

# The first that fits: aiohttp's own, from the particular to the general.
_ERROR_TYPES: Final[tuple[tuple[type[Exception], type[httpx.TransportError]], ...]] = (
    (aiohttp.SocketTimeoutError, httpx.ReadTimeout),
    (aiohttp.ServerTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ClientPayloadError, httpx.ReadError),
    (aiohttp.ClientOSError, httpx.ReadError),
    # A name that no resolver takes is one that cannot be found.
    (aiohttp.InvalidURL, httpx.ConnectError),
    (UnicodeError, httpx.ConnectError),
    (aiohttp.ClientError, httpx.RemoteProtocolError),
    (TimeoutError, httpx.ReadTimeout),
)


class AiohttpTransport(httpx.AsyncBaseTransport):
    """A transport in which calls never wait for each other."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)
        self._client_session: aiohttp.ClientSession | None = None

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a line that is free, or on a new one; it is free again once closed.

        An idle line may be closed by the upstream in the very moment in which it is taken: what
        fails there before its answer has begun is asked once more.
        """
        connection_use = SimpleNamespace(is_reused=False)
        try:
            response = await self._send(request, connection_use)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            if not connection_use.is_reused:
                raise
            response = await self._send(request, connection_use)
        return httpx.Response(
            response.status, headers=list(response.raw_headers), stream=_ResponseStream(response)
        )

    async def _send(
        self, request: httpx.Request, connection_use: SimpleNamespace
    ) -> aiohttp.ClientResponse:
        timeouts = request.extensions.get("timeout", {})
        with _translated_errors():
            return await self._session().request(
                request.method,
                str(request.url),
                data=request.content,
                # httpx' own view of them takes ten times as long.
                headers=[(name.decode(), field.decode()) for name, field in request.headers.raw],
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=timeouts.get("connect"), sock_read=timeouts.get("read")
                ),
                trace_request_ctx=connection_use,
            )

    @override
    async def aclose(self) -> None:
        """Close the idle lines."""
        if self._client_session is not None:
            await self._client_session.close()

    def _session(self) -> aiohttp.ClientSession:
        """Open the session where there is a loop to open it in."""
        if self._client_session is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            self._client_session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, ssl=self._tls, keepalive_timeout=_IDLE_SECONDS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_OUR_HEADERS,
                trace_configs=[trace],
            )
        return self._client_session


class _ResponseStream(httpx.AsyncByteStream):
    """A response's bytes; the line is left to the next call once they were read to their end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated_errors():
            async for piece in self._response.content.iter_any():
                yield piece

    @override
    async def aclose(self) -> None:
        # In the middle of an answer the line is of no use to anybody.
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def _note_reuse(_session: object, context: Any, _parameters: object) -> None:  # noqa: ANN401  aiohttp's own
    context.trace_request_ctx.is_reused = True


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for aiohttp_error, httpx_error in _ERROR_TYPES:
            if isinstance(error, aiohttp_error):
                raise httpx_error(str(error)) from error
        raise
