"""The client of a search service: one query, one request, a few results.

Owns the HTTP of a search and its bounds: the whole search within the settings' seconds, a response
of 2 MiB at most, no redirects, no proxies of the environment, no compression. Every failure is a
`ProviderError` with the code SEARCH_FAILED. Refuses to retry, and to pass a service's error text
on.
"""

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Final

import httpx
import msgspec

from shared.catalogue import provider_key
from shared.errors import Category, ProviderError
from shared.search_settings import SearchSettings
from shared.settings import ProviderSettings, Secret
from shared.telemetry import logs
from worker.providers.aiohttp_transport import (
    AiohttpTransport,
    ResponseBody,
    UpstreamRequest,
    check_base_url,
)
from worker.providers.citations import Citations
from worker.providers.failures import FailureTranslator
from worker.providers.refusals import Classification
from worker.providers.sse import TooLargeError
from worker.web_search.brave import Brave
from worker.web_search.contract import Result, SearchApi
from worker.web_search.searxng import SearXNG
from worker.web_search.tavily import Tavily

CODE: Final = "SEARCH_FAILED"
ANSWER_BYTES_MAX: Final = 2_097_152
KINDS: Final[dict[str, SearchApi]] = {"searxng": SearXNG(), "brave": Brave(), "tavily": Tavily()}
_HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": "pollux",
}
# The categories that callers read. Any other failure is the service's, never the caller's.
_PUBLIC_MESSAGES: Final[dict[Category, str]] = {
    "rate_limit": "The search service limits how often it may be asked.",
    "overloaded": "The search service is overloaded or cannot be reached.",
    "auth": "The search service refused the deployment's credentials.",
    "timeout": "The search service did not answer in time.",
}
_FAILED: Final = "The search service failed."
# All searches are alike, so these statuses never concern a single one.
_DEPLOYMENT_FAULTS: Final[dict[int, Classification]] = {
    402: ("auth", "PROVIDER_UNPAID", "never"),
    403: ("auth", "PROVIDER_FORBIDS", "never"),
}


class SearchClient:
    """The connections to one search service."""

    def __init__(self, settings: SearchSettings, key: Secret | None) -> None:
        assert settings.service is not None  # noqa: S101  `connect` asked
        self.name = settings.service
        self._settings = settings
        self._api = KINDS[settings.service]
        self._headers = _HEADERS | self._api.headers(key)
        self._url = httpx.URL((settings.base_url or self._api.base_url).rstrip("/"))
        self._failures = FailureTranslator(settings.service)
        self._transport = AiohttpTransport()

    async def close(self) -> None:
        """Close the service's connections."""
        await self._transport.close()

    async def search(self, query: str, seconds: float) -> tuple[Result, ...]:
        """Return the first results, each page once, within `seconds`. Raises ProviderError.

        No results are no failure.
        """
        try:
            with self._failures.translated_errors():
                async with asyncio.timeout(min(seconds, self._settings.seconds)):
                    body = await self._send(query)
                return self._read(body)
        except TimeoutError:
            error = self._failures.error(("timeout", "PROVIDER_TIMEOUT", "backoff"))
            raise self._public_error(error) from None
        except ProviderError as error:
            raise self._public_error(error) from None

    async def _send(self, query: str) -> bytes:
        """Send the request; return the whole body of its response."""
        search = self._api.build_request(query, self._settings.results_max)
        request = UpstreamRequest(
            "GET" if search.body is None else "POST",
            str(httpx.URL(str(self._url) + search.path, params=search.parameters or None)),
            self._headers,
            connect_seconds=self._settings.seconds,
        )
        head, body = await self._transport.send(
            request, search.body or b"", read_seconds=self._settings.seconds
        )
        try:
            if head.status_code != httpx.codes.OK:
                # The status is enough; the body may be of any length.
                if head.status_code in _DEPLOYMENT_FAULTS:
                    raise self._failures.error(_DEPLOYMENT_FAULTS[head.status_code])
                raise self._failures.refusal(head, b"")
            self._failures.check_encoding(head)
            return await _read_body(body)
        finally:
            await body.aclose()

    def _read(self, body: bytes) -> tuple[Result, ...]:
        """Return the results of a response, each page once."""
        seen = Citations()
        text = body.decode(errors="replace").encode()
        distinct = (
            result
            for result in self._api.results(text)
            for _ in seen.take(result.url, result.title)
        )
        return tuple(islice(distinct, self._settings.results_max))

    def _public_error(self, error: ProviderError) -> ProviderError:
        """Return a failure as the caller reads it; log the exact one."""
        failure = error.failure
        logs.logger().info("the search failed", service=self.name, code=failure.code)
        if self.name == "searxng" and failure.code == "PROVIDER_FORBIDS":
            logs.logger().warning(
                "SearXNG answers 403 unless `json` is among `search.formats` of its settings"
            )
        category: Category = (
            failure.category if failure.category in _PUBLIC_MESSAGES else "provider_error"
        )
        public = msgspec.structs.replace(
            failure,
            message=_PUBLIC_MESSAGES.get(category, _FAILED),
            category=category,
            code=CODE,
            retryable=True,
        )
        return ProviderError(
            public, retry=error.retry, retry_after_seconds=error.retry_after_seconds
        )


def connect(settings: SearchSettings, environment: Mapping[str, str]) -> SearchClient | None:
    """Return a client of the service that the settings name.

    None if they name none, or if its key is not in the environment: then other workers search.
    Raises ConfigurationError for an address or a key that cannot be used.
    """
    if settings.service is None:
        return None
    base_url = settings.base_url or KINDS[settings.service].base_url
    check_base_url(base_url, "search.base_url")
    named = ProviderSettings(
        name=settings.service, base_url=base_url, api_key_env=settings.api_key_env
    )
    key = provider_key(named, environment)
    if key is None and settings.api_key_env is not None:
        logs.logger().warning(
            "the key of the search service is not set; other workers search",
            variable=settings.api_key_env,
        )
        return None
    return SearchClient(settings, key)


async def _read_body(body: ResponseBody) -> bytes:
    """Return a whole body. Raises TooLargeError."""
    received = bytearray()
    async for chunk in body:
        received += chunk
        if len(received) > ANSWER_BYTES_MAX:
            raise TooLargeError
    return bytes(received)
