"""Deletes function libraries that no process has used for a day.

Every deployment that changes the Lua text leaves the old library in Redis; each worker marks its
own as used.
"""

from typing import Final

from shared.clock import MS_PER_DAY
from shared.redis import keys, library
from shared.redis.client import Connection
from shared.settings import RedisSettings

UNUSED_MS: Final = MS_PER_DAY


async def mark_used(redis: Connection, settings: RedisSettings, now_ms: int) -> None:
    """Note that this process' library is in use."""
    await redis.call("ZADD", keys.LIBRARIES(keys.system_root(settings)), now_ms, library.NAME)


async def trim(redis: Connection, settings: RedisSettings, now_ms: int) -> list[str]:
    """Delete the libraries unused for a day; return their names."""
    used = keys.LIBRARIES(keys.system_root(settings))
    await mark_used(redis, settings, now_ms)
    stale: list[bytes] = await redis.call("ZRANGE", used, "-inf", now_ms - UNUSED_MS, "BYSCORE")
    for name in stale:
        if await redis.call("FUNCTION", "LIST", "LIBRARYNAME", name):
            await redis.call("FUNCTION", "DELETE", name)
        await redis.call("ZREM", used, name)
    return [name.decode() for name in stale]
