"""How long the last 128 answers of a model took, by the requested model (`auto` too)."""

from typing import Final

from shared.redis import keys
from shared.redis.client import Connection

_LAST: Final = 128


async def durations_ms(redis: Connection, root: str, model: str) -> list[int]:
    """Return how long the model's last completed answers took, in milliseconds, newest first."""
    stored: list[bytes] = await redis.call("LRANGE", keys.DURATIONS(root, model), 0, _LAST - 1)
    return [int(duration) for duration in stored]
