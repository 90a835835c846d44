"""What the tests of searching turns share: a search service, its pages, its recorded requests."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from shared.wire.generation import Generation
from shared.wire.message import AssistantMessage, Citation
from shared.wire.submission import Features
from tests.support.chat_completions import Request
from tests.worker.providers.upstream import Upstream
from tests.worker.single_attempts import Attempts
from tests.worker.web_search.search_apis import found, settings

SEARCH: Final = Features(web_search=True)
PAGES: Final = (
    ("https://a.example/1", "One bear", "Bears come in ones."),
    ("https://b.example/2", "Two bears", "Bears come in twos."),
)
CITED: Final = (
    Citation("https://a.example/1", "One bear"),
    Citation("https://b.example/2", "Two bears"),
)
RATE: Final = 2.5


@pytest.fixture(name="engine")
async def engine_fixture() -> AsyncIterator[Upstream]:
    """Return a server that plays SearXNG and finds two pages."""
    async with Upstream() as listening:
        listening.script = found("searxng", *PAGES)
        yield listening


@pytest.fixture(name="searching")
def searching_fixture(attempts: Attempts, engine: Upstream) -> Attempts:
    """Return a maker of attempts whose deployment has a search service."""
    attempts.change_search(settings("searxng", engine, rate=RATE))
    return attempts


def kept(ended: Generation) -> AssistantMessage:
    """Return the answer of what has ended."""
    assert ended.assistant is not None
    return ended.assistant


def change(attempts: Attempts, *models: dict[str, Any]) -> None:
    """Change the first models, one after the other; the others are left out."""
    known = attempts.settings.models
    changed = [
        msgspec.structs.replace(model, **fields)
        for model, fields in zip(known, models, strict=False)
    ]
    attempts.settings = msgspec.structs.replace(attempts.settings, models=tuple(changed))


def system_of(request: Request) -> str:
    """Return what the system says in a request; it says so once, and first."""
    roles = [message["role"] for message in request.messages]
    assert roles.count("system") == 1 == roles.index("system") + 1
    return str(request.messages[0]["content"])
