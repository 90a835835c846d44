"""`pollux redis`, on a real server."""

import pytest

from shared.clock import SystemClock
from shared.errors import UnavailableError
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.settings import RedisSettings
from shared.stores.accounts import Accounts
from tests.deploy.conftest import Pollux
from tests.support.desk import Desk

pytestmark = pytest.mark.each_once


async def _no_restore(*_: object) -> int:
    raise UnavailableError("Redis is away.")


async def test_damaged_lane_is_named_set_aside_and_made_anew_even_if_it_takes_two_calls(
    pollux: Pollux,
    redis: Redis,
    redis_settings: RedisSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reach = {
        "REDIS_URL": redis_settings.url,
        "POLLUX_REDIS__PREFIX": redis_settings.prefix,
        "POLLUX_REDIS__PARTITIONS": str(redis_settings.partitions),
    }
    acme = await Accounts(redis, redis_settings, b"", SystemClock()).create("acme", "pro")
    home = Desk(redis, redis_settings, acme.partition)
    await home.submit("acme")
    lane, holders = keys.LANE(home.root, "interactive"), keys.HOLDERS(home.root)
    await redis.call("DEL", lane, holders)
    await redis.call("MSET", lane, "theirs", holders, "theirs")
    checked = pollux("redis", "check", **reach)
    assert checked.code == 1
    assert all(f"{name} is a string where a zset" in checked.out for name in (lane, holders))
    assert await redis.call("MGET", lane, holders) == [b"theirs", b"theirs"]
    with monkeypatch.context() as cut:
        cut.setattr(functions, "restore", _no_restore)
        cut_short = pollux("redis", "mend", **reach)
    assert cut_short.code != 0
    assert f"{lane} is a string where a zset should be: set aside as" in cut_short.out
    mended = pollux("redis", "mend", **reach)
    assert (mended.code, mended.out) == (0, "1 places in the lines were made anew\n")
    assert pollux("redis", "mend", **reach).out == "nothing to mend\n"
    await home.complete(await home.claim_one())
    await redis.call("UNLINK", cut_short.out.split()[-1])
