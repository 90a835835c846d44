"""What a search consists of, and the Protocol that each kind of service implements. Pure.

Trusts nothing that a service sends: a result is an http(s) URL, a title and a snippet, each in one
line and of bounded length.
"""

import html
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec

from shared.settings import Secret
from worker.providers.citations import is_page, plain_text

QUERY_CHARACTERS_MAX: Final = 400
TITLE_CHARACTERS_MAX: Final = 200
SNIPPET_CHARACTERS_MAX: Final = 500
# Only this much of a snippet is read, since markup may be of any length.
_SEEN_CHARACTERS_MAX: Final = 10_000
_MARKUP: Final = re.compile(r"<[^<>]{0,300}>")


class Result(msgspec.Struct, frozen=True):
    """A page that was found, with the snippet of its text that fits the query."""

    url: str
    title: str
    snippet: str


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request, below the service's base URL; with a body it is a POST."""

    path: str
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    body: bytes | None = None


class SearchApi(Protocol):
    """The API of one kind of service."""

    base_url: str

    def headers(self, key: Secret | None) -> dict[str, str]:
        """Return the headers of every request, among them the one that carries the key."""

    def build_request(self, query: str, count: int) -> SearchRequest:
        """Return the request for `count` results."""

    def results(self, body: bytes) -> Iterator[Result]:
        """Yield the results of a response.

        Raises:
            InBandError: the service reports a failure in it.
            msgspec.MsgspecError: it has not the form of this API.

        """


def search_query(message: str) -> str:
    """Return the query for a message: the message in one line, cut between two words."""
    line = plain_text(message, QUERY_CHARACTERS_MAX + 1)
    if len(line) <= QUERY_CHARACTERS_MAX:
        return line
    whole, _, _ = line.rpartition(" ")
    return whole or line[:QUERY_CHARACTERS_MAX]


def read_results(entries: Iterable[Any], snippet: str) -> Iterator[Result]:
    """Yield the results among entries with `url`, `title` and a field named `snippet`.

    An entry without an http(s) URL is left out.
    """
    for entry in entries:
        if isinstance(entry, dict) and is_page(entry.get("url")):
            yield Result(
                entry["url"],
                _line(entry.get("title"), TITLE_CHARACTERS_MAX),
                _line(entry.get(snippet), SNIPPET_CHARACTERS_MAX),
            )


def _line(text: object, characters_max: int) -> str:
    """Return a text without markup, in one line."""
    if not isinstance(text, str):
        return ""
    bare = html.unescape(_MARKUP.sub(" ", text[:_SEEN_CHARACTERS_MAX]))
    return plain_text(bare, characters_max)
