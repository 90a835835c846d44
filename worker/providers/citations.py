"""The pages that an answer cites, in the order in which they arrive.

Owns what is passed on: http(s) URLs, each once, at most `CITATIONS_MAX`. Raises nothing: what
cannot be a citation is left out and does not harm the answer.
"""

import unicodedata
from collections.abc import Iterator
from typing import Final, TypeGuard

from shared.wire.message import Citation

CITATIONS_MAX: Final = 64
URL_CHARACTERS_MAX: Final = 2_048
_TITLE_CHARACTERS_MAX: Final = 300


class Citations:
    """The citations of one answer, each page once."""

    def __init__(self) -> None:
        self._seen_urls: set[str] = set()

    def take(self, url: object, title: object) -> Iterator[Citation]:
        """Yield the citation of a page if it is new, else nothing."""
        if not is_page(url) or url in self._seen_urls or len(self._seen_urls) == CITATIONS_MAX:
            return
        self._seen_urls.add(url)
        yield Citation(
            url, plain_text(title, _TITLE_CHARACTERS_MAX) if isinstance(title, str) else ""
        )


def is_page(url: object) -> TypeGuard[str]:
    """Tell whether a value is the http(s) URL of a page."""
    if not isinstance(url, str) or len(url) > URL_CHARACTERS_MAX or not url.isprintable():
        return False
    scheme, _, rest = url.partition("://")
    return scheme.lower() in {"http", "https"} and bool(rest) and " " not in url


def plain_text(text: str, characters_max: int) -> str:
    """Return a text in one line, without control and format characters."""
    # Only this much is read, since a text may be of any length.
    start = text[: characters_max * 4]
    visible = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in start)
    return " ".join(visible.split())[:characters_max].rstrip()
