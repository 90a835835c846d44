"""SearXNG's API with `format=json`: it answers 403 if its settings do not list that format."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shared.settings import Secret
from worker.providers.failures import InBandError
from worker.web_search.contract import Result, SearchRequest, read_results


class _Answer(msgspec.Struct):
    """The fields of a response that are read."""

    results: list[Any]
    unresponsive_engines: list[Any] = []


_decode: Final = msgspec.json.Decoder(_Answer).decode


class SearXNG:
    """The API."""

    # It is self-hosted, so there is no default.
    base_url = ""

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header for a proxy in front of it; SearXNG itself needs no key."""
        return {"authorization": f"Bearer {key.reveal()}"} if key else {}

    def build_request(self, query: str, _count: int) -> SearchRequest:
        """Return the request; the server decides the number of results."""
        return SearchRequest(path="/search", parameters={"q": query, "format": "json"})

    def results(self, body: bytes) -> Iterator[Result]:
        """Yield the results. Raises InBandError when no engine answered, and MsgspecError."""
        answer = _decode(body)
        if not answer.results and answer.unresponsive_engines:
            raise InBandError({"code": 503, "message": "no engine answers"})
        return read_results(answer.results, "content")
