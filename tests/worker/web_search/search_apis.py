"""How each kind of search service returns its results, and a server of raw bytes that plays it."""

import json
from collections.abc import Callable
from typing import Any, Final

from shared.search_settings import SearchService, SearchSettings
from tests.worker.providers.upstream import Script, Upstream, whole

Page = tuple[object, object, object]

KEY_ENV: Final = "SEARCH_KEY"
JSON: Final = "application/json"


def _searxng(*pages: Page) -> dict[str, Any]:
    results = [
        {"url": url, "title": title, "content": content, "engine": "e", "score": 1.0}
        for url, title, content in pages
    ]
    return {"query": "q", "number_of_results": 0, "results": results, "unresponsive_engines": []}


def _brave(*pages: Page) -> dict[str, Any]:
    results = [
        {"type": "search_result", "url": url, "title": title, "description": text}
        for url, title, text in pages
    ]
    web = {"web": {"type": "search", "results": results}} if pages else {}
    return {"type": "search", "query": {"original": "q"}, **web}


def _tavily(*pages: Page) -> dict[str, Any]:
    results = [
        {"url": url, "title": title, "content": text, "score": 0.9, "raw_content": None}
        for url, title, text in pages
    ]
    return {"query": "q", "answer": None, "results": results, "response_time": 1.2}


_KINDS: Final[dict[SearchService, Callable[..., dict[str, Any]]]] = {
    "searxng": _searxng,
    "brave": _brave,
    "tavily": _tavily,
}
NAMES: Final = tuple(_KINDS)


def answer(kind: SearchService, *pages: Page) -> bytes:
    """Return the body of an answer with these pages: address, title, snippet."""
    return json.dumps(_KINDS[kind](*pages), ensure_ascii=False).encode()


def found(kind: SearchService, *pages: Page) -> Script:
    """Return a script that answers with these pages."""
    return whole(answer(kind, *pages), content_type=JSON)


def settings(kind: SearchService, upstream: Upstream, **fields: Any) -> SearchSettings:  # noqa: ANN401  of any field
    """Return the settings of a service of that kind at an upstream."""
    return SearchSettings(service=kind, base_url=upstream.url, **fields)
