"""Erasing a prefix: it deletes our own keys and leaves all others."""

from deploy.local.erase import erase
from shared.settings import RedisSettings, Settings
from tests.support.redis_server import Server


async def test_erasing_a_prefix_leaves_all_other_keys() -> None:
    ours = ("demo:{sys}:a", "demo:{0}:b", "arq:in-progress:demo:{sys}:forget:1")
    theirs = ["arq:in-progress:cron:work:1", "arq:in-progress:x", "demonstration", "x:demo:a"]
    with Server() as server, server.raw_client() as raw_client:
        for name in (*ours, *theirs):
            raw_client("SET", name, "x")
        redis = RedisSettings(url=server.url, prefix="demo")
        await erase(Settings(redis=redis), with_library=False)
        assert sorted(raw_client.names("*")) == sorted(theirs)
