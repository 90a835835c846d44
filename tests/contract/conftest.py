"""A partition to work on: the last of those there are, so that no test leans on the first."""

import pytest

from shared.redis.client import Redis
from shared.settings import RedisSettings
from tests.support.desk import Desk


@pytest.fixture
def desk(redis: Redis, redis_settings: RedisSettings) -> Desk:
    """Return the functions of the last partition."""
    return Desk(redis, redis_settings, redis_settings.partitions - 1)
