"""The connections to an upstream, over aiohttp.

Owns the connections, each used by one call at a time and then by the next, and the one table from
aiohttp's errors to failures. Refuses to queue: the worker bounds the number of concurrent calls.

DESIGN. httpx's transport spends 100 to 200 us of CPU on each chunk that arrives by itself, as
tokens do; aiohttp, whose parser is in C, a third of that, and a third on a whole short answer. Also
httpx's types of a request and a response cost a sixth of a short answer, so they are not used:
headers are parsed only where they are read.
"""

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any, Final, Protocol

import aiohttp
import httpx
from yarl import URL

from shared.errors import ConfigurationError
from worker.providers.refusals import Classification

_IDLE_SECONDS: Final = 15.0
_OUR_HEADERS: Final = frozenset({"accept", "accept-encoding", "user-agent", "content-type"})
_NO_ENCODING: Final = frozenset({b"", b"identity"})

_SILENT: Final[Classification] = ("timeout", "PROVIDER_SILENT", "backoff")
_CONNECT_FAILED: Final[Classification] = ("overloaded", "CONNECT_FAILED", "backoff")
STREAM_CUT: Final[Classification] = ("provider_error", "STREAM_CUT", "backoff")

# The first match counts: from the particular to the general.
_BY_EXCEPTION: Final[tuple[tuple[type[Exception], Classification], ...]] = (
    (aiohttp.SocketTimeoutError, _SILENT),
    (aiohttp.ServerTimeoutError, ("timeout", "CONNECT_TIMEOUT", "backoff")),
    (aiohttp.ClientConnectorError, _CONNECT_FAILED),
    # A host name that no resolver accepts counts as one that cannot be found.
    (aiohttp.InvalidURL, _CONNECT_FAILED),
    (UnicodeError, _CONNECT_FAILED),
    (aiohttp.ClientError, STREAM_CUT),
    (TimeoutError, _SILENT),
)


class TransportError(Exception):
    """A connection failed; `classification` says how, `__cause__` is aiohttp's own error."""

    def __init__(self, classification: Classification, text: str) -> None:
        super().__init__(text)
        self.classification = classification


def check_base_url(base_url: str, setting: str) -> None:
    """Refuse a base URL that names no host. Raises ConfigurationError, which names the setting."""
    try:
        fault = "" if httpx.URL(base_url).host else "names no host"
    except (httpx.InvalidURL, UnicodeError) as error:
        fault = str(error)
    if fault:
        raise ConfigurationError([f"{setting}: {fault}"])


@cache
def _tls() -> ssl.SSLContext:
    """Return the context of all providers: reading the certificates takes some 20 ms of CPU."""
    return httpx.create_ssl_context(trust_env=False)


class ResponseBody(Protocol):
    """The body of a response, in pieces as they arrive."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield each piece. Raises TransportError."""

    async def aclose(self) -> None:
        """Leave the connection: to the next call, if the body was read to its end."""


class ResponseHead:
    """The status and the headers of a response; `raw_headers` are as they were received."""

    def __init__(self, status_code: int, raw_headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status_code = status_code
        self.raw_headers = raw_headers

    @cached_property
    def headers(self) -> httpx.Headers:
        """The headers, by their names in any case."""
        return httpx.Headers(list(self.raw_headers))

    @property
    def is_compressed(self) -> bool:
        """Whether the body is compressed."""
        return any(
            name.lower() == b"content-encoding" and value.strip().lower() not in _NO_ENCODING
            for name, value in self.raw_headers
        )


class UpstreamRequest:
    """What the requests to one URL have in common; only their content differs."""

    def __init__(
        self, method: str, url: str, headers: Mapping[str, str], *, connect_seconds: float
    ) -> None:
        self.method = method
        self.url = URL(url)
        self.headers = headers
        self.connect_seconds = connect_seconds


class Transport(Protocol):
    """Sends requests to an upstream; only tests have another one than `AiohttpTransport`."""

    async def send(
        self, request: UpstreamRequest, content: bytes, /, *, read_seconds: float
    ) -> tuple[ResponseHead, ResponseBody]:
        """Send a request; return the response's head once it has arrived, and its body."""

    async def close(self) -> None:
        """Close the idle connections."""


class AiohttpTransport:
    """A transport in which calls never wait for each other."""

    def __init__(self) -> None:
        self._tls = _tls()
        self._client_session: aiohttp.ClientSession | None = None

    async def send(
        self, request: UpstreamRequest, content: bytes, /, *, read_seconds: float
    ) -> tuple[ResponseHead, ResponseBody]:
        """Send a request on an idle connection, or on a new one.

        The upstream may close an idle connection at the moment in which it is reused: a request
        that is cut off on a reused connection before its response has begun is sent once more.
        Raises TransportError.
        """
        limits = aiohttp.ClientTimeout(sock_connect=request.connect_seconds, sock_read=read_seconds)
        connection_use = SimpleNamespace(is_reused=False)
        try:
            response = await self._send(request, content, limits, connection_use)
        except TransportError as error:
            if error.classification != STREAM_CUT or not connection_use.is_reused:
                raise
            response = await self._send(request, content, limits, connection_use)
        return ResponseHead(response.status, response.raw_headers), _ResponseBody(response)

    async def _send(
        self,
        request: UpstreamRequest,
        content: bytes,
        limits: aiohttp.ClientTimeout,
        connection_use: SimpleNamespace,
    ) -> aiohttp.ClientResponse:
        with _translated_errors():
            return await self._session().request(
                request.method,
                request.url,
                data=content,
                headers=request.headers,
                allow_redirects=False,
                timeout=limits,
                trace_request_ctx=connection_use,
            )

    async def close(self) -> None:
        """Close the idle connections."""
        if self._client_session is not None:
            await self._client_session.close()

    def _session(self) -> aiohttp.ClientSession:
        """Return the session, made on first use: it needs a running event loop."""
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


class _ResponseBody:
    """A response's body; its connection is reused if the body was read to its end."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = self._response.content.readany
        with _translated_errors():
            # Not `iter_any`, which adds a coroutine to each piece, as tokens are.
            while piece := await read():
                yield piece

    async def aclose(self) -> None:
        # In the middle of a response the connection cannot be reused.
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
        for kind, classification in _BY_EXCEPTION:
            if isinstance(error, kind):
                raise TransportError(classification, str(error)) from error
        raise
