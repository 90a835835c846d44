"""HttpProvider: one streamed request to one upstream, of any dialect.

Owns the HTTP of a call and its end: what is a complete answer, what is a broken one, and when a
connection may be reused. A call is one request; redirects are not followed, proxies of the
environment not used, compressed bodies refused, cookies not kept. The dialect owns the content.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import httpx

from shared.clock import SystemClock
from shared.errors import ProviderError
from shared.settings import ModelSettings, ProviderSettings, Secret
from worker.providers.aiohttp_transport import (
    STREAM_CUT,
    AiohttpTransport,
    ResponseBody,
    ResponseHead,
    Transport,
    TransportError,
    UpstreamRequest,
    check_base_url,
)
from worker.providers.contract import ChatRequest, Dialect, KeepAlive, Part, Reader
from worker.providers.failures import FailureTranslator
from worker.providers.rate_limit_headers import RateLimits, may_run_out, read_rate_limits
from worker.providers.sse import SSEParser

_ERROR_BYTES_MAX: Final = 65_536
_ERROR_SECONDS: Final = 0.5
# How long to read on for the end of the body, which lets the connection be reused.
_DRAIN_SECONDS: Final = 0.1
_KEEP_ALIVE: Final = KeepAlive()
_CLOCK: Final = SystemClock()
_HEADERS: Final = {
    "accept": "text/event-stream",
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "pollux",
}


class HttpProvider:
    """The connections to one upstream of a dialect; only tests pass a `transport`."""

    def __init__(
        self,
        dialect: Dialect,
        settings: ProviderSettings,
        key: Secret | None,
        transport: Transport | None = None,
    ) -> None:
        check_base_url(settings.base_url, f"providers.{settings.name}.base_url")
        self._dialect = dialect
        self._settings = settings
        # Its repr hides the key.
        self._headers = httpx.Headers(_HEADERS | dialect.headers(key))
        self._failures = FailureTranslator(
            settings.name,
            title=settings.title,
            key=key,
            host=httpx.URL(settings.base_url).host,
        )
        self._transport: Transport = transport or AiohttpTransport()
        self._requests: dict[str, UpstreamRequest] = {}
        self._last_heads: dict[str, ResponseHead] = {}

    async def close(self) -> None:
        """Close the upstream's connections."""
        await self._transport.close()

    def limits_of(self, model: ModelSettings, *, now: float) -> RateLimits | None:
        """Return the rate limits in the last response for a model; `now` is in Unix seconds.

        Headers are parsed here only, so that calls cost nothing more.
        """
        last = self._last_heads.get(model.upstream)
        return read_rate_limits(last.headers, now=now) if last is not None else None

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """Yield the parts of an answer. Raises ProviderError, also for one that breaks off."""
        reader = self._dialect.reader(request)
        with (
            _errors_ignored_after_end(reader),
            self._failures.translated_errors(request.own_texts),
        ):
            async with self._open(request) as body:
                yield self._first_sign_of_life(request.model)
                events = SSEParser(request.max_tokens, has_media=request.model.makes_media)
                chunks = aiter(body)
                parts: Sequence[Part] | None = ()
                async for chunk in chunks:
                    parts = ()
                    for data in events.feed(chunk):
                        parts = reader.read(data)
                        if parts is None:
                            break
                        for part in parts:
                            yield part
                    if parts is None:
                        break
                    if not parts:
                        yield _KEEP_ALIVE
                for part in self._last_parts(reader, events.rest() if parts is not None else ()):
                    yield part
                await _drain(chunks)

    def _first_sign_of_life(self, model: ModelSettings) -> KeepAlive:
        """Return the first sign of life, with the rate limits if few calls remain."""
        last = self._last_heads[model.upstream]
        if not may_run_out(last.raw_headers):
            return _KEEP_ALIVE
        return KeepAlive(read_rate_limits(last.headers, now=_CLOCK.now_ms() / 1000))

    def _last_parts(self, reader: Reader, rest: Sequence[bytes]) -> Iterator[Part]:
        """Yield what the end of the body adds. Raises ProviderError for an answer without end."""
        for data in rest:
            yield from reader.read(data) or ()
        yield from reader.finish()
        if not reader.has_ended:
            raise self._failures.error(STREAM_CUT)

    @asynccontextmanager
    async def _open(self, request: ChatRequest) -> AsyncIterator[ResponseBody]:
        """Send the request; yield its response's body.

        The read timeout here is long; `receive_answer` enforces the shorter ones between parts.
        """
        head, body = await self._transport.send(
            self._request(request.model),
            self._dialect.body(request),
            read_seconds=max(self._settings.idle_seconds, request.silence_seconds()),
        )
        self._last_heads[request.model.upstream] = head
        try:
            if head.status_code != httpx.codes.OK:
                error_body = await _read_error_body(body)
                raise self._failures.refusal(head, error_body, request.own_texts)
            # The content type is not checked.
            self._failures.check_encoding(head)
            yield body
        finally:
            await body.aclose()

    def _request(self, model: ModelSettings) -> UpstreamRequest:
        path = self._dialect.path(model)
        if path not in self._requests:
            self._requests[path] = UpstreamRequest(
                "POST",
                str(httpx.URL(self._settings.base_url.rstrip("/") + path)),
                dict(self._headers),
                connect_seconds=self._settings.connect_seconds,
            )
        return self._requests[path]


@contextmanager
def _errors_ignored_after_end(reader: Reader) -> Iterator[None]:
    """Ignore errors after the end of the answer was yielded."""
    try:
        yield
    except ProviderError:
        if not reader.has_ended:
            raise


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of the body after the last event, if it comes soon."""
    with suppress(TransportError, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass


async def _read_error_body(body: ResponseBody) -> bytes:
    """Return the beginning of an error's body, bounded in bytes and time."""
    head = b""
    with suppress(TransportError, TimeoutError):
        async with asyncio.timeout(_ERROR_SECONDS):
            async for chunk in body:
                head += chunk
                if len(head) > _ERROR_BYTES_MAX:
                    break
    return head[:_ERROR_BYTES_MAX]
