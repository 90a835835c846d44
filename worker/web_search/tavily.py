"""Tavily, as its search API speaks it."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shared.settings import Secret
from worker.web_search.contract import Result, SearchRequest, read_results


class _Answer(msgspec.Struct):
    """What we read of an answer."""

    results: list[Any]


_KIND: Final = {"content-type": "application/json"}
_decode: Final = msgspec.json.Decoder(_Answer).decode
_encode: Final = msgspec.json.Encoder().encode


class Tavily:
    """The words."""

    base_url = "https://api.tavily.com"

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the body's kind, and the header that carries the key."""
        return _KIND | ({"authorization": f"Bearer {key.reveal()}"} if key else {})

    def ask(self, query: str, count: int) -> SearchRequest:
        """Return the request."""
        asked = {"query": query, "max_results": count, "search_depth": "basic"}
        return SearchRequest(path="/search", body=_encode(asked))

    def results(self, body: bytes) -> Iterator[Result]:
        """Yield the results. Raises MsgspecError."""
        return read_results(_decode(body).results, "content")
