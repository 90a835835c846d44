"""A server whose settings change while processes run, and the agreed number of partitions."""

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.errors import ConfigurationError
from shared.redis import functions, keys, library, partitions, server_check
from shared.redis.client import Argument, Redis, Reply
from shared.redis.functions import ListMissingCommandsAsk
from shared.redis.server_watch import ServerWatch
from shared.settings import RedisSettings
from tests.support.redis_functions import RedisFunctions


def _with(settings: RedisSettings, count: int) -> RedisSettings:
    return msgspec.structs.replace(settings, partitions=count)


async def test_number_of_partitions_grows_and_never_shrinks(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    await partitions.register_count(redis, _with(redis_settings, 3), may_raise=True)
    await partitions.register_count(redis, _with(redis_settings, 3), may_raise=False)
    with pytest.raises(ConfigurationError) as fewer:
        await partitions.register_count(redis, _with(redis_settings, 2), may_raise=True)
    assert "redis.partitions: 2 here, but this deployment has 3" in fewer.value.message
    with pytest.raises(ConfigurationError) as more:
        await partitions.register_count(redis, _with(redis_settings, 5), may_raise=False)
    assert "start its workers with the new number first" in more.value.message
    await partitions.register_count(redis, _with(redis_settings, 5), may_raise=True)
    assert await partitions.fault(redis, _with(redis_settings, 3)) is not None
    assert await partitions.fault(redis, _with(redis_settings, 5)) is None


async def test_deployment_without_a_stored_number_is_recognised_by_its_keys(
    redis: Redis, redis_settings: RedisSettings
) -> None:
    queue = RedisFunctions(redis, redis_settings, partition=redis_settings.partitions - 1)
    await queue.cancel(await queue.submit())
    await partitions.register_count(redis, redis_settings, may_raise=True)
    await redis.call("DEL", keys.PARTITIONS(keys.system_root(redis_settings)))
    if redis_settings.partitions > 1:
        with pytest.raises(ConfigurationError):
            await partitions.register_count(redis, _with(redis_settings, 1), may_raise=True)
    await partitions.register_count(redis, _with(redis_settings, 4), may_raise=True)


async def test_first_process_of_a_deployment_asks_once_for_keys_of_more_partitions(
    redis: Redis, redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await redis.call("DEL", keys.PARTITIONS(keys.system_root(redis_settings)))
    pending, pending_most, asked = 0, 0, 0
    call = redis.call

    async def counted(*command: Argument, repeat: bool = True) -> Reply:
        nonlocal pending, pending_most, asked
        if command[0] != "EXISTS":
            return await call(*command, repeat=repeat)
        pending, asked = pending + 1, asked + 1
        pending_most = max(pending_most, pending)
        try:
            return await call(*command, repeat=repeat)
        finally:
            pending -= 1

    monkeypatch.setattr(redis, "call", counted)
    await partitions.register_count(redis, redis_settings, may_raise=True)
    assert asked > 0
    assert pending_most == asked


async def test_change_by_an_operator_is_logged_when_it_starts_and_ends(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    await library.load(own_redis)
    server_watch = ServerWatch(
        own_redis, own_settings, await server_check.check(own_redis, own_settings)
    )
    changes = {
        "maxmemory-policy": ("allkeys-lru", "noeviction", "evicts keys"),
        "appendonly": ("no", "yes", "append-only"),
        "maxmemory": ("1000000", "0", "memory is full"),
    }
    for name, (bad, good, words) in changes.items():
        with capture_logs() as lines:
            await own_redis.call("CONFIG", "SET", name, bad)
            for _ in range(2):
                await server_watch.inspect()
            assert [fault for fault in server_watch.faults if words in fault], server_watch.faults
            await own_redis.call("CONFIG", "SET", name, good)
            await server_watch.inspect()
        assert server_watch.faults == ()
        events = [line["event"] for line in lines]
        assert events == ["Redis is no longer fit", "Redis is fit again"]
    assert server_check.MEMORY_UNBOUNDED in server_watch.warnings
    await own_redis.call("CONFIG", "SET", "maxmemory", "4gb")
    await server_watch.inspect()
    assert server_check.MEMORY_UNBOUNDED not in server_watch.warnings
    with capture_logs() as lines:
        await own_redis.call("CONFIG", "SET", "appendfsync", "everysec")
        await server_watch.inspect()
    assert server_check.LATE_SYNC in server_watch.holds
    assert lines[0]["event"] == "durability has changed"


@pytest.mark.parametrize("denied", ["time", "zadd", "hincrby", "blpop", "client|unblock", "set"])
async def test_command_that_the_user_lacks_is_named(
    own_redis: Redis, own_settings: RedisSettings, denied: str
) -> None:
    await library.load(own_redis)
    await server_check.check_commands(own_redis, own_settings)
    await own_redis.call("ACL", "SETUSER", "default", f"-{denied}")
    with pytest.raises(ConfigurationError) as refused:
        await server_check.check_commands(own_redis, own_settings)
    assert f"+{denied}" in refused.value.message.split()
    server_watch = ServerWatch(own_redis, own_settings)
    await server_watch.inspect()
    assert any(f"+{denied}" in fault for fault in server_watch.faults)
    await own_redis.call("ACL", "SETUSER", "default", "+@all")
    await server_watch.inspect()
    assert server_watch.faults == ()


async def test_trying_commands_leaves_nothing(redis: Redis, redis_settings: RedisSettings) -> None:
    root = keys.system_root(redis_settings)
    assert await functions.list_missing_commands(redis, root, ListMissingCommandsAsk()) == []
    assert await redis.call("EXISTS", keys.PERMISSION_PROBE(root)) == 0


async def test_server_without_a_memory_limit_is_logged_at_the_start(
    own_redis: Redis, own_settings: RedisSettings
) -> None:
    with capture_logs() as lines:
        await server_check.check(own_redis, own_settings)
        assert lines == []
        await own_redis.call("CONFIG", "SET", "maxmemory", 0)
        await server_check.check(own_redis, own_settings)
    assert [line["warning"] for line in lines] == [server_check.MEMORY_UNBOUNDED]
