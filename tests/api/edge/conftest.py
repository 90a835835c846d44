"""A server behind the edge, on each event loop, and the rules that hold after every test.

one_site       a running server, shared by the tests of a module
site           the same; after the test it must hold no connection and answer the next request
errors_logged  the messages that a test provokes on purpose; any other warning or error fails it
"""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api.edge.strangers import LAST, Site, running

Backend = tuple[str, dict[str, bool]]


@pytest.fixture(
    scope="module",
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


@pytest.fixture(scope="module")
async def one_site() -> AsyncIterator[Site]:
    async with running(keep_alive_seconds=1) as site:
        yield site


@pytest.fixture
async def site(one_site: Site) -> AsyncIterator[Site]:
    one_site.app.reset()
    yield one_site
    one_site.app.gate.set()
    await one_site.is_empty()
    assert [answer.status for answer in await one_site.ask(LAST)] == [200]


@pytest.fixture(autouse=True)
def errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    expected: list[str] = []
    yield expected
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    loud = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert loud == expected
