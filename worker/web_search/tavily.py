"""The search API of Tavily."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shared.settings import Secret
from worker.web_search.contract import Result, SearchRequest, read_results


class _Answer(msgspec.Struct):
    """The fields of a response that are read."""

    results: list[Any]


_KIND: Final = {"content-type": "application/json"}
_decode: Final = msgspec.json.Decoder(_Answer).decode
_encode: Final = msgspec.json.Encoder().encode


class Tavily:
    """The API."""

    base_url = "https://api.tavily.com"

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the body's content type, and the header that carries the key."""
        return _KIND | ({"authorization": f"Bearer {key.reveal()}"} if key else {})

    def build_request(self, query: str, count: int) -> SearchRequest:
        """Return the request."""
        body = {"query": query, "max_results": count, "search_depth": "basic"}
        return SearchRequest(path="/search", body=_encode(body))

    def results(self, body: bytes) -> Iterator[Result]:
        """Yield the results. Raises MsgspecError."""
        return read_results(_decode(body).results, "content")
