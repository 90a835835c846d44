"""Whether a server can hold Pollux' records: every reason against it is reported, all at once."""

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.errors import ConfigurationError
from shared.redis import server_check
from shared.redis.client import Redis
from shared.settings import Durability, RedisSettings


async def _faults(redis: Redis, settings: RedisSettings) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        await server_check.check(redis, settings)
    return caught.value.faults


async def test_durable_server_is_fit(own_redis: Redis, own_settings: RedisSettings) -> None:
    await server_check.check(own_redis, own_settings)
    await server_check.check(own_redis, msgspec.structs.replace(own_settings, durability="fsync"))


async def test_server_without_durability_or_with_eviction_is_unfit(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "appendonly", "no")
    evicts, forgets = await _faults(own_redis, own_settings)
    assert "evicts keys" in evicts
    assert "append-only" in forgets
    careless = msgspec.structs.replace(own_settings, durability="none")
    assert await _faults(own_redis, careless) == [evicts]


@pytest.mark.parametrize(
    ("durability", "appendfsync"),
    [
        ("process", "no"),
        ("process", "always"),
        ("replica", "no"),
        ("fsync", "always"),
        ("everysec", "everysec"),
        ("everysec", "always"),
        ("none", "everysec"),
    ],
)
async def test_durability_is_reported_in_one_line(
    own_redis: Redis, own_settings: RedisSettings, durability: Durability, appendfsync: str
) -> None:
    await own_redis.call("CONFIG", "SET", "appendfsync", appendfsync)
    named = msgspec.structs.replace(own_settings, durability=durability)
    if durability == "replica":
        [fault] = await _faults(own_redis, named)
        assert "a replica connected" in fault
    else:
        assert await server_check.check(own_redis, named) == server_check.GUARANTEES[durability]


@pytest.mark.parametrize(
    ("durability", "appendfsync", "needed"),
    [
        ("fsync", "everysec", "appendfsync always"),
        ("fsync", "no", "appendfsync always"),
        ("everysec", "no", "appendfsync always or everysec"),
    ],
)
async def test_name_that_promises_more_than_the_server_holds_is_refused(
    own_redis: Redis,
    own_settings: RedisSettings,
    durability: Durability,
    appendfsync: str,
    needed: str,
) -> None:
    await own_redis.call("CONFIG", "SET", "appendfsync", appendfsync)
    named = msgspec.structs.replace(own_settings, durability=durability)
    fault = (await _faults(own_redis, named))[0]
    assert fault.endswith(f"`{durability}` needs a server with {needed}")


async def test_weaker_durability_is_reported_with_a_warning(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("CONFIG", "SET", "appendfsync", "everysec")
    with capture_logs() as lines:
        holds = await server_check.check(own_redis, own_settings)
    assert holds == f"{server_check.GUARANTEES['process']}, {server_check.LATE_SYNC}"
    [line] = lines
    assert (line["log_level"], line["event"], line["holds"]) == (
        "warning",
        "durability falls short",
        holds,
    )


@pytest.mark.parametrize("durability", ["fsync", "everysec"])
async def test_server_that_syncs_nothing_while_it_rewrites_is_unfit(
    own_redis: Redis, own_settings: RedisSettings, durability: Durability
) -> None:
    await own_redis.call("CONFIG", "SET", "no-appendfsync-on-rewrite", "yes")
    await server_check.check(own_redis, own_settings)
    [fault] = await _faults(own_redis, msgspec.structs.replace(own_settings, durability=durability))
    assert "no-appendfsync-on-rewrite no" in fault


async def test_where_config_is_denied_the_setting_decides(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("ACL", "SETUSER", "default", "-config")
    strict = msgspec.structs.replace(own_settings, durability="fsync")
    assert (
        await server_check.check(own_redis, strict)
        == f"{server_check.GUARANTEES['fsync']}; {server_check.CONFIGURATION_HIDDEN}"
    )


async def test_user_without_our_channels_is_reported(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await own_redis.call("ACL", "SETUSER", "default", "resetchannels")
    [fault] = await _faults(own_redis, own_settings)
    assert f"&{own_settings.prefix}:*" in fault
    await own_redis.call("ACL", "SETUSER", "default", f"&{own_settings.prefix}:*")
    await server_check.check(own_redis, own_settings)
