"""Fixtures: an upstream of raw bytes, and an adapter connected to it, for every dialect."""

from collections.abc import AsyncIterator

import pytest

from tests.worker.providers.calls import BRIEF_REQUEST, IDLE_SECONDS, Call
from tests.worker.providers.dialect_row import Dialect
from tests.worker.providers.dialects import DIALECTS
from tests.worker.providers.upstream import Upstream


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Return a dialect; the test runs for each."""
    chosen: Dialect = request.param
    # For the table of `python -m tests.worker.providers`.
    request.node.user_properties.append(("dialect", chosen.name))
    return chosen


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Return an upstream of raw bytes."""
    async with Upstream() as listening:
        yield listening


@pytest.fixture
async def call(dialect: Dialect, upstream: Upstream) -> AsyncIterator[Call]:
    """Return an adapter with long timeouts, and its upstream."""
    calling = Call(dialect, upstream)
    yield calling
    await calling.provider.close()


@pytest.fixture
async def brief(dialect: Dialect, upstream: Upstream) -> AsyncIterator[Call]:
    """Return an adapter with short timeouts."""
    calling = Call(dialect, upstream, IDLE_SECONDS, BRIEF_REQUEST)
    yield calling
    await calling.provider.close()
