"""Delete what is left of sessions that were deleted: their files, and turns.

The function that deletes a session notes its name beside the queue, in the same moment, so that no
death of a process in between leaves files behind. A name stays for a while: an attempt that ran
meanwhile may still have been writing. Turns are forgotten by whoever deletes the session, piece by
piece; here are those that it did not live to forget.
"""

import asyncio
from typing import Final

from shared.media.files import Files
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.telemetry import logs

# Longer than any attempt of a deleted session goes on.
LATE_MS: Final = 60_000
_SESSIONS_MAX: Final = 1_000


async def forget(redis: Connection, settings: RedisSettings, files: Files, now_ms: int) -> int:
    """Delete what is left of every session noted; return how many there were."""
    count = 0
    for partition in range(settings.partitions):
        root = keys.partition_root(settings, partition)
        for name in await redis.call("HKEYS", keys.FORGETTING(root)):
            account, _, session = name.decode().partition(":")
            ask = functions.ForgetTurnsAsk(account=account, id=session)
            await functions.forget_turns(redis, root, ask)
        noted = keys.FORGOTTEN(root)
        flat: list[tuple[bytes, float]] = await redis.call(
            "ZRANGE", noted, 0, _SESSIONS_MAX - 1, "WITHSCORES"
        )
        for name, at_ms in flat:
            account, _, session = name.decode().partition(":")
            try:
                await asyncio.to_thread(files.forget, account, session)
            except OSError as error:
                # The others must not wait for it; it stays noted.
                logs.logger().error("files cannot be deleted", name=name.decode(), fault=str(error))
                continue
            if now_ms - at_ms > LATE_MS:
                await redis.call("ZREM", noted, name)
        count += len(flat)
    return count
