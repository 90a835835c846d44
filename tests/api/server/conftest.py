"""A server behind the protocol, on each event loop, and the rules that hold after every test.

shared_server  a running server, shared by the tests of a module
live_server    the same; after the test it must have no connection and answer the next request
errors_logged  the messages that a test provokes on purpose; any other warning or error fails it
"""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api.server.clients import LAST, RunningServer, running

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
async def shared_server() -> AsyncIterator[RunningServer]:
    async with running(keep_alive_seconds=1) as live_server:
        yield live_server


@pytest.fixture
async def live_server(shared_server: RunningServer) -> AsyncIterator[RunningServer]:
    shared_server.app.reset()
    yield shared_server
    shared_server.app.gate.set()
    await shared_server.is_empty()
    assert [answer.status for answer in await shared_server.ask(LAST)] == [200]


@pytest.fixture(autouse=True)
def errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    expected: list[str] = []
    yield expected
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    loud = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert loud == expected
