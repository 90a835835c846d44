"""The log of a running answer's finished rounds. Only `append` writes it."""

from shared.redis import keys
from shared.redis.client import Connection
from shared.wire.round import RoundEntry, decode


async def read(redis: Connection, root: str, account: str, generation: str) -> list[RoundEntry]:
    """Return all entries, oldest first. Raises MsgspecError where one cannot be read."""
    lines = await redis.call("LRANGE", keys.ROUNDS(root, account, generation), 0, -1)
    return [decode(line) for line in lines]
