"""Is the server still fit? Looked at again while a process runs, as it was looked at at its start.

Owns what was found last. An operator may change a server's eviction, durability or memory limit, or
the rights of its user, while Pollux runs on it: that is logged when it happens and when it is over,
and told by `/readyz`. Nothing is refused for it.
"""

import random
from typing import Final

from shared.redis import partitions, server
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.telemetry import logs

LOOK_SECONDS: Final = 10.0


class Watch:
    """The server as it was last seen: its faults, and what it keeps through a death."""

    def __init__(self, redis: Connection, settings: RedisSettings, holds: str = "") -> None:
        self._redis = redis
        self._settings = settings
        self.faults: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.holds = holds

    def pause_seconds(self) -> float:
        """Return how long to wait for the next look; no two processes look together for long."""
        return LOOK_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  jitter, not a secret

    async def look(self) -> None:
        """Look once, and log what has changed. Raises UnavailableError while Redis is away."""
        seen = await server.look(self._redis, self._settings, while_running=True)
        wrong = await partitions.fault(self._redis, self._settings)
        faults = (*seen.faults, *([wrong] if wrong else ()))
        if faults != self.faults:
            if faults:
                logs.logger().error("Redis is no longer fit", faults=list(faults))
            else:
                logs.logger().info("Redis is fit again")
        if seen.holds != self.holds and not faults:
            logs.logger().warning("durability has changed", holds=seen.holds)
        self.faults, self.holds, self.warnings = faults, seen.holds, seen.warnings
