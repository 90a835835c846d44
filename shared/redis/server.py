"""Is this server fit to hold the record?

Owns the conditions: new enough for functions, never evicting, and as durable as the settings
promise. A deployment that wants less says so by name: `durability = "none"`.
"""

from typing import Final

from shared.errors import ConfigurationError, StoreError, UnavailableError
from shared.redis.client import Connection
from shared.settings import RedisSettings

VERSION_MIN: Final = (7, 0)


async def check(redis: Connection, settings: RedisSettings) -> None:
    """Return if this server is fit. Raises ConfigurationError with every reason why it is not."""
    info = await _info(redis)
    found = (
        _too_old(info),
        _evicting(info),
        await _volatile(redis, info, settings),
        _alone(info, settings),
    )
    faults = [fault for fault in found if fault]
    if faults:
        raise ConfigurationError(faults)


async def _info(redis: Connection) -> dict[str, str]:
    text: bytes | str = await redis.call("INFO")
    lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _too_old(info: dict[str, str]) -> str | None:
    version = info.get("redis_version", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) >= VERSION_MIN:
        return None
    return (
        f"redis.url: the server is version {version}; Pollux needs Redis 7.0 or Valkey 8 or later"
    )


def _evicting(info: dict[str, str]) -> str | None:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return f"redis.url: the server evicts keys (maxmemory-policy {policy}); it must be noeviction"


async def _volatile(redis: Connection, info: dict[str, str], settings: RedisSettings) -> str | None:
    if settings.durability == "none":
        return None
    if info.get("aof_enabled") != "1":
        return (
            "redis.durability: the server keeps no append-only file (appendonly no), so a restart "
            'would lose accepted messages; turn it on, or set durability to "none"'
        )
    if settings.durability == "fsync" and await _appendfsync(redis) not in {"always", None}:
        return "redis.durability: `fsync` needs a server with appendfsync always"
    return None


def _alone(info: dict[str, str], settings: RedisSettings) -> str | None:
    if settings.durability != "replica" or int(info.get("connected_slaves", 0)) > 0:
        return None
    return "redis.durability: `replica` needs a server with a replica connected"


async def _appendfsync(redis: Connection) -> str | None:
    """Return the server's setting, or None where CONFIG is not allowed."""
    try:
        reply = await redis.call("CONFIG", "GET", "appendfsync")
    except StoreError:
        return None
    except UnavailableError as error:
        # Some servers have no CONFIG, others do not let us.
        if "NOPERM" in error.message:
            return None
        raise
    value = reply.get(b"appendfsync")
    return value.decode() if value else None
