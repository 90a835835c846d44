"""Is the server still fit? Looked at again while a process runs, as it was looked at at its start.

Owns what was found last, also which keys somebody else has overwritten. An operator may change a
server's eviction, durability or memory limit, or the rights of its user, while Pollux runs on it:
that is logged when it happens and when it is over, and told by `/readyz`. Nothing is refused for
it.
"""

import random
from typing import Final

from shared.errors import WrongKey
from shared.redis import functions, key_types, keys, partitions, server_check
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.telemetry import logs

POLL_SECONDS: Final = 10.0


class ServerWatch:
    """The server as it was last seen: its faults, and what it keeps through a death."""

    def __init__(self, redis: Connection, settings: RedisSettings, holds: str = "") -> None:
        self._redis = redis
        self._settings = settings
        self.faults: tuple[str, ...] = ()
        self.wrong_keys: tuple[WrongKey, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.holds = holds

    def pause_seconds(self) -> float:
        """Return how long to wait for the next look; no two processes look together for long."""
        return POLL_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  jitter, not a secret

    async def inspect(self) -> None:
        """Look once, and log what has changed. Raises UnavailableError while Redis is away."""
        seen = await server_check.inspect(self._redis, self._settings, while_running=True)
        wrong = await partitions.fault(self._redis, self._settings)
        self.wrong_keys = await self._wrong_keys()
        damaged = (f"redis: {key.fault}; `pollux redis mend`" for key in self.wrong_keys)
        faults = (*seen.faults, *([wrong] if wrong else ()), *damaged)
        if faults != self.faults:
            if faults:
                logs.logger().error("Redis is no longer fit", faults=list(faults))
            else:
                logs.logger().info("Redis is fit again")
        if seen.holds != self.holds and not faults:
            logs.logger().warning("durability has changed", holds=seen.holds)
        self.faults, self.holds, self.warnings = faults, seen.holds, seen.warnings

    async def _wrong_keys(self) -> tuple[WrongKey, ...]:
        """Return the keys of another type, of those that all of a partition or the system share."""
        roots = [keys.system_root(self._settings)]
        roots += [keys.partition_root(self._settings, n) for n in range(self._settings.partitions)]
        found = [
            await functions.check_types(self._redis, root, key_types.ask(key_types.of_root(root)))
            for root in roots
        ]
        return tuple(key for each in found for key in each if not key.is_removed)
