"""Is a server fit to hold the record? Every reason why not is told, and told at once."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from shared.errors import ConfigurationError
from shared.redis import server
from shared.redis.client import Redis
from shared.settings import RedisSettings


@pytest.fixture
async def own_redis(own_settings: RedisSettings) -> AsyncIterator[Redis]:
    client = Redis(own_settings)
    yield client
    await client.close()


async def _faults(redis: Redis, settings: RedisSettings) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        await server.check(redis, settings)
    return caught.value.faults


async def test_server_that_keeps_what_it_took_is_fit(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await server.check(own_redis, own_settings)
    await server.check(own_redis, msgspec.structs.replace(own_settings, durability="fsync"))


async def test_server_that_forgets_or_evicts_is_unfit(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "appendonly", "no")
    evicts, forgets = await _faults(own_redis, own_settings)
    assert "evicts keys" in evicts
    assert "append-only" in forgets
    careless = msgspec.structs.replace(own_settings, durability="none")
    assert await _faults(own_redis, careless) == [evicts]


async def test_word_to_sync_each_write_must_be_kept(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("CONFIG", "SET", "appendfsync", "everysec")
    await server.check(own_redis, own_settings)
    strict = msgspec.structs.replace(own_settings, durability="fsync")
    [fault] = await _faults(own_redis, strict)
    assert "appendfsync always" in fault


async def test_where_config_is_denied_the_operators_word_must_do(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("ACL", "SETUSER", "default", "-config")
    await server.check(own_redis, msgspec.structs.replace(own_settings, durability="fsync"))
