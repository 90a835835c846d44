"""How many partitions a deployment has: the number is in Redis, and every process must know it.

An account stays in the partition that its record names, so a process that knows of fewer would
leave those of the others unserved. The number may therefore grow, and never shrink: a worker or a
front that is set to more raises it, and one that is set to fewer does not start. Whoever makes
accounts follows, and never raises it.
"""

from contextlib import suppress
from typing import Final

from shared.errors import ConfigurationError, NotNowError
from shared.redis import keys
from shared.redis.client import Connection
from shared.settings import RedisSettings

_MEMBER: Final = "most"
# Settings allow no more; looked at once, where a deployment of before has not noted its number.
_PARTITIONS_MAX: Final = 64


async def fault(redis: Connection, settings: RedisSettings) -> str | None:
    """Return what is wrong with the number that this process is set to, if anything."""
    known = await _known(redis, settings)
    if known is None or known <= settings.partitions:
        return None
    return (
        f"redis.partitions: {settings.partitions} here, but this deployment has {known}; accounts "
        f"of the others would be left unserved, so set it to {known}"
    )


async def register_count(redis: Connection, settings: RedisSettings, *, may_raise: bool) -> None:
    """Note the number where there is none, and raise it where that is allowed.

    Raises:
        ConfigurationError: this process is set to fewer, or to more than it may make of it.

    """
    known = await _known(redis, settings)
    wrong = await fault(redis, settings)
    if wrong is None and known is not None and known < settings.partitions and not may_raise:
        wrong = (
            f"redis.partitions: {settings.partitions} here, but this deployment has {known}; start "
            "its workers with the new number first"
        )
    if wrong is not None:
        raise ConfigurationError([wrong])
    where = keys.PARTITIONS(keys.system_root(settings))
    # A server that is full takes no writes, and must be worked on all the same.
    with suppress(NotNowError):
        # A score that only grows: of two that raise it at once the larger one stays.
        await redis.call("ZADD", where, "GT", settings.partitions, _MEMBER)


async def _known(redis: Connection, settings: RedisSettings) -> int | None:
    """Return the number that was noted, or that which is seen to be used by an older deployment."""
    noted = await redis.call("ZSCORE", keys.PARTITIONS(keys.system_root(settings)), _MEMBER)
    if noted is not None:
        return int(float(noted))
    for number in range(_PARTITIONS_MAX - 1, settings.partitions - 1, -1):
        if await redis.call("EXISTS", keys.CLOCKS(keys.partition_root(settings, number))):
            return number + 1
    return None
