"""The web search API of Brave Search."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from shared.settings import Secret
from worker.web_search.contract import Result, SearchRequest, read_results

# A query with more words is refused.
_WORDS_MAX: Final = 50


class _Web(msgspec.Struct):
    results: list[Any] = []


class _Answer(msgspec.Struct):
    """The fields of a response that are read; without results there is no `web`."""

    type: str
    web: _Web | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode


class Brave:
    """The API."""

    base_url = "https://api.search.brave.com/res/v1"

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the header that carries the key."""
        return {"x-subscription-token": key.reveal()} if key else {}

    def build_request(self, query: str, count: int) -> SearchRequest:
        """Return the request, without Brave's highlight marks in snippets."""
        words = " ".join(query.split(" ")[:_WORDS_MAX])
        parameters = {"q": words, "count": str(count), "text_decorations": "false"}
        return SearchRequest(path="/web/search", parameters=parameters)

    def results(self, body: bytes) -> Iterator[Result]:
        """Yield the results. Raises MsgspecError."""
        answer = _decode(body)
        return read_results(answer.web.results if answer.web is not None else (), "description")
