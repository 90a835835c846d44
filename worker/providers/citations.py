"""The pages that an answer is said to rest on, in the order in which they are told.

Owns what of them may be passed on: addresses of the web, each once, and as many as anybody reads.
Refuses nothing aloud: what cannot be a citation is left out, and takes nothing from the answer.
"""

import unicodedata
from collections.abc import Iterator
from typing import Final, TypeGuard

from shared.wire.message import Citation

CITATIONS_MAX: Final = 64
URL_CHARACTERS_MAX: Final = 2_048
_TITLE_CHARACTERS_MAX: Final = 300


class Citations:
    """The citations of one answer: each page is told once."""

    def __init__(self) -> None:
        self._seen_urls: set[str] = set()

    def take(self, url: object, title: object) -> Iterator[Citation]:
        """Yield the citation of a page that is new, or nothing."""
        if not is_page(url) or url in self._seen_urls or len(self._seen_urls) == CITATIONS_MAX:
            return
        self._seen_urls.add(url)
        yield Citation(
            url, plain_text(title, _TITLE_CHARACTERS_MAX) if isinstance(title, str) else ""
        )


def is_page(url: object) -> TypeGuard[str]:
    """Tell whether a text is the address of a page: no script, no mail, no blanks."""
    if not isinstance(url, str) or len(url) > URL_CHARACTERS_MAX or not url.isprintable():
        return False
    scheme, _, rest = url.partition("://")
    return scheme.lower() in {"http", "https"} and bool(rest) and " " not in url


def plain_text(text: str, characters_max: int) -> str:
    """Return a text in one line, without what no page shows: control and format characters."""
    # No more than this is looked at: a text may be of any length.
    seen = text[: characters_max * 4]
    shown = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in seen)
    return " ".join(shown.split())[:characters_max].rstrip()
