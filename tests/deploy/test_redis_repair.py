"""`pollux redis`: finding and repairing overwritten keys, on a real server."""

import pytest

from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts
from shared.wire.fleet import WorkerReport, encode
from tests.deploy.conftest import Pollux
from tests.support.redis_functions import RedisFunctions

pytestmark = pytest.mark.each_once


async def _fail_to_restore(*_: object) -> int:
    raise UnavailableError("Redis is away.")


def _environment(settings: RedisSettings) -> dict[str, str]:
    return {
        "REDIS_URL": settings.url,
        "POLLUX_REDIS__PREFIX": settings.prefix,
        "POLLUX_REDIS__PARTITIONS": str(settings.partitions),
    }


async def test_leases_are_not_repaired_while_workers_are_live(
    pollux: Pollux, redis: Redis, redis_settings: RedisSettings
) -> None:
    redis_environment, leases = (
        _environment(redis_settings),
        keys.LEASES(keys.partition_root(redis_settings, 0)),
    )
    await redis.call("SET", leases, "theirs")
    # The worker counts as live for longer than the command takes on a busy machine.
    report_times = keys.REPORT_TIMES(keys.system_root(redis_settings))
    await redis.call("ZADD", report_times, SystemClock().now_ms() + 600_000, "w1")
    report = encode(WorkerReport(id="w1", concurrency=1, running=0, models=(), wire=1))
    await redis.call("HSET", keys.WORKER_REPORTS(keys.system_root(redis_settings)), "w1", report)
    refused = pollux("redis", "mend", **redis_environment)
    assert (refused.code, refused.out) == (1, "")
    assert "live workers are found: 1" in refused.err
    assert await redis.call("GET", leases) == b"theirs"
    repaired = pollux("redis", "mend", "--beside-workers", **redis_environment)
    assert repaired.code == 0
    checked = pollux("redis", "check", **redis_environment)
    assert (checked.code, checked.out) == (0, "no key has a wrong type\n")
    assert f"{leases} is a string where a zset should be: renamed to" in repaired.out
    await redis.call("UNLINK", repaired.out.splitlines()[0].split()[-1])


async def test_an_overwritten_lane_is_renamed_and_rebuilt_even_after_an_interruption(
    pollux: Pollux,
    redis: Redis,
    redis_settings: RedisSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis_environment = _environment(redis_settings)
    acme = await Accounts(redis, redis_settings, b"", SystemClock()).create("acme", "pro")
    home = RedisFunctions(redis, redis_settings, acme.partition)
    await home.submit("acme")
    lane, holders = keys.LANE(home.root, "interactive"), keys.CLAIMING_WORKERS(home.root)
    await redis.call("DEL", lane, holders)
    await redis.call("MSET", lane, "theirs", holders, "theirs")
    checked = pollux("redis", "check", **redis_environment)
    assert checked.code == 1
    assert all(f"{name} is a string where a zset" in checked.out for name in (lane, holders))
    assert await redis.call("MGET", lane, holders) == [b"theirs", b"theirs"]
    with monkeypatch.context() as patch:
        patch.setattr(functions, "restore", _fail_to_restore)
        interrupted = pollux("redis", "mend", **redis_environment)
    assert interrupted.code != 0
    assert f"{lane} is a string where a zset should be: renamed to" in interrupted.out
    repaired = pollux("redis", "mend", **redis_environment)
    assert (repaired.code, repaired.out) == (0, "1 queue entries were rebuilt\n")
    assert pollux("redis", "mend", **redis_environment).out == "nothing to repair\n"
    await home.complete(await home.claim_one())
    await redis.call("UNLINK", interrupted.out.split()[-1])
