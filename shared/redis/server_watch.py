"""Repeats the check of the server while a process runs, and looks for overwritten keys.

An operator may change a server's eviction, durability, memory limit or permissions while Pollux
runs on it. A change is logged when it happens and when it is over, and shown by `/readyz`; nothing
is refused because of it.
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
    """The server's last known faults, warnings and guarantee, and its overwritten keys."""

    def __init__(self, redis: Connection, settings: RedisSettings, holds: str = "") -> None:
        self._redis = redis
        self._settings = settings
        self.faults: tuple[str, ...] = ()
        self.wrong_keys: tuple[WrongKey, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.holds = holds

    def pause_seconds(self) -> float:
        """Return how long to wait until the next check, with jitter."""
        return POLL_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  jitter, not a secret

    async def inspect(self) -> None:
        """Check once, and log what has changed. Raises UnavailableError while Redis is away."""
        state = await server_check.inspect(self._redis, self._settings, while_running=True)
        partitions_fault = await partitions.fault(self._redis, self._settings)
        self.wrong_keys = await self._wrong_keys()
        damaged = (f"redis: {key.fault}; `pollux redis mend`" for key in self.wrong_keys)
        faults = (*state.faults, *([partitions_fault] if partitions_fault else ()), *damaged)
        if faults != self.faults:
            if faults:
                logs.logger().error("Redis is no longer fit", faults=list(faults))
            else:
                logs.logger().info("Redis is fit again")
        if state.holds != self.holds and not faults:
            logs.logger().warning("durability has changed", holds=state.holds)
        self.faults, self.holds, self.warnings = faults, state.holds, state.warnings

    async def _wrong_keys(self) -> tuple[WrongKey, ...]:
        """Return the keys of a wrong type among the system's and those that partitions share."""
        roots = [keys.system_root(self._settings)]
        roots += [keys.partition_root(self._settings, n) for n in range(self._settings.partitions)]
        found = [
            await functions.check_types(self._redis, root, key_types.ask(key_types.of_root(root)))
            for root in roots
        ]
        return tuple(key for each in found for key in each if not key.is_removed)
