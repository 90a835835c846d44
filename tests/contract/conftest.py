"""Fixtures of the contract tests: the last partition, so that no test depends on the first."""

from collections.abc import AsyncIterator

import pytest

from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.support.proxy import Proxy
from tests.support.redis_functions import RedisFunctions
from tests.support.redis_server import Server


@pytest.fixture
def queue(redis: Redis, redis_settings: RedisSettings) -> RedisFunctions:
    """Return the functions of the last partition."""
    return RedisFunctions(redis, redis_settings, redis_settings.partitions - 1)


@pytest.fixture
async def own_redis(own_settings: RedisSettings) -> AsyncIterator[Redis]:
    """Return a connection to the test's own server."""
    client = Redis(own_settings)
    yield client
    await client.close()


@pytest.fixture
async def proxy(own_server: Server) -> AsyncIterator[Proxy]:
    """Return a proxy to the test's own server, with faults on demand."""
    async with Proxy(own_server.socket) as fault_proxy:
        yield fault_proxy
