"""The number of partitions of a deployment: it is stored in Redis, and every process must know it.

An account stays in the partition that its record names, so a process that knew of fewer partitions
would leave some accounts unserved. The number may grow, but never shrinks: a worker or an API
process with a larger setting raises it, one with a smaller setting does not start. Commands that
create accounts must match it, and never raise it.
"""

import asyncio
from contextlib import suppress
from typing import Final

from shared.errors import ConfigurationError, NotNowError
from shared.redis import keys
from shared.redis.client import Connection
from shared.settings import RedisSettings

_MEMBER: Final = "most"
# The most that settings allow; an older deployment that stored no number is searched this far once.
_PARTITIONS_MAX: Final = 64


async def fault(redis: Connection, settings: RedisSettings) -> str | None:
    """Return what is wrong with this process' number of partitions, or None."""
    return _fault(await _known(redis, settings), settings)


def _fault(known: int | None, settings: RedisSettings) -> str | None:
    if known is None or known <= settings.partitions:
        return None
    return (
        f"redis.partitions: {settings.partitions} here, but this deployment has {known}; accounts "
        f"of the others would be left unserved, so set it to {known}"
    )


async def register_count(redis: Connection, settings: RedisSettings, *, may_raise: bool) -> None:
    """Store the number if there is none, and raise it where that is allowed.

    Raises:
        ConfigurationError: this process is set to fewer, or to more than it may raise.

    """
    known = await _known(redis, settings)
    wrong = _fault(known, settings)
    if wrong is None and known is not None and known < settings.partitions and not may_raise:
        wrong = (
            f"redis.partitions: {settings.partitions} here, but this deployment has {known}; start "
            "its workers with the new number first"
        )
    if wrong is not None:
        raise ConfigurationError([wrong])
    where = keys.PARTITIONS(keys.system_root(settings))
    # A full server takes no writes, but processes must start on it all the same.
    with suppress(NotNowError):
        # GT: of two processes that raise it at once, the larger number stays.
        await redis.call("ZADD", where, "GT", settings.partitions, _MEMBER)


async def _known(redis: Connection, settings: RedisSettings) -> int | None:
    """Return the stored number, or the number of partitions that an older deployment uses."""
    noted = await redis.call("ZSCORE", keys.PARTITIONS(keys.system_root(settings)), _MEMBER)
    if noted is not None:
        return int(float(noted))
    # In one round trip; the partitions have a command each, since a cluster may split them.
    beyond = range(settings.partitions, _PARTITIONS_MAX)
    found = await asyncio.gather(
        *(
            redis.call("EXISTS", keys.CLOCKS(keys.partition_root(settings, number)))
            for number in beyond
        )
    )
    used = [number for number, is_used in zip(beyond, found, strict=True) if is_used]
    return used[-1] + 1 if used else None
