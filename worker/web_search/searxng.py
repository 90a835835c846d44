"""SearXNG, as it answers with `format=json`: 403 where its settings do not list that format."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shared.settings import Secret
from worker.providers.failures import InBandError
from worker.web_search.contract import Result, SearchRequest, read_results


class _Answer(msgspec.Struct):
    """What we read of an answer."""

    results: list[Any]
    unresponsive_engines: list[Any] = []


_decode: Final = msgspec.json.Decoder(_Answer).decode


class SearXNG:
    """The words."""

    # Everybody runs one of their own.
    base_url = ""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header for a proxy in front of it that wants a key; SearXNG wants none."""
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def ask(self, query: str, _count: int) -> SearchRequest:
        """Return the request; how many results there are is the server's to say."""
        return SearchRequest(path="/search", parameters={"q": query, "format": "json"})

    def results(self, body: bytes) -> Iterator[Result]:
        """Yield the results. Raises InBandError when no engine answered, and MsgspecError."""
        answer = _decode(body)
        if not answer.results and answer.unresponsive_engines:
            raise InBandError({"code": 503, "message": "no engine answers"})
        return read_results(answer.results, "content")
