"""A server behind the protocol, on each event loop, and the rules that hold after every test.

one_site       a running server, shared by the tests of a module
site           the same; after the test it must have no connection and answer the next request
errors_logged  the messages that a test provokes on purpose; any other warning or error fails it
"""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api.server.clients import LAST, EdgeServer, running

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
async def shared_edge_server() -> AsyncIterator[EdgeServer]:
    async with running(keep_alive_seconds=1) as edge_server:
        yield edge_server


@pytest.fixture
async def edge_server(shared_edge_server: EdgeServer) -> AsyncIterator[EdgeServer]:
    shared_edge_server.app.reset()
    yield shared_edge_server
    shared_edge_server.app.gate.set()
    await shared_edge_server.is_empty()
    assert [answer.status for answer in await shared_edge_server.ask(LAST)] == [200]


@pytest.fixture(autouse=True)
def errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    expected: list[str] = []
    yield expected
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    loud = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert loud == expected
