"""Delete what is left of sessions that were deleted: their files, and turns.

The function that deletes a session notes its name beside the queue, in the same moment, so that no
death of a process in between leaves files behind. A name stays for a while: an attempt that ran
meanwhile may still have been writing. Turns are forgotten by whoever deletes the session, piece by
piece; here are those that it did not live to forget.
"""

import asyncio
from typing import Final

from shared.media.files import MediaFiles
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.telemetry import logs
from worker.partition_guard import PartitionGuard

# Longer than any attempt of a deleted session goes on.
LATE_MS: Final = 60_000
_SESSIONS_AT_ONCE: Final = 500


async def forget(redis: Connection, settings: RedisSettings, files: MediaFiles, now_ms: int) -> int:
    """Delete what is left of every session noted; return how many there were.

    `now_ms` is Redis' own time, by which the names were noted. They are read piece by piece, and
    one piece follows another until there is none left.
    """
    count = 0
    partition_guard = PartitionGuard()
    for partition in range(settings.partitions):
        root = keys.partition_root(settings, partition)
        with partition_guard("forget", partition):
            for name in await redis.call("HKEYS", keys.TURNS_TO_DELETE(root)):
                account, _, session = name.decode().partition(":")
                ask = functions.DeleteTurnsAsk(account=account, id=session)
                await functions.delete_turns(redis, root, ask)
        with partition_guard("forget files", partition):
            count += await _forget_files(redis, keys.FILES_TO_DELETE(root), files, now_ms)
    return count


async def _forget_files(redis: Connection, noted: str, files: MediaFiles, now_ms: int) -> int:
    count = kept = 0
    while True:
        page: list[tuple[bytes, float]] = await redis.call(
            "ZRANGE", noted, kept, kept + _SESSIONS_AT_ONCE - 1, "WITHSCORES"
        )
        faults = await asyncio.to_thread(_delete, files, [name.decode() for name, _ in page])
        for named, fault in faults.items():
            # The others must not wait for it; it stays noted.
            logs.logger().error("files cannot be deleted", name=named, fault=fault)
        done = [
            name for name, at_ms in page if now_ms - at_ms > LATE_MS and name.decode() not in faults
        ]
        if done:
            await redis.call("ZREM", noted, *done)
        count += len(page)
        kept += len(page) - len(done)
        if len(page) < _SESSIONS_AT_ONCE:
            return count


def _delete(files: MediaFiles, names: list[str]) -> dict[str, str]:
    """Delete the files of sessions; return what went wrong, by name."""
    faults = {}
    for name in names:
        account, _, session = name.partition(":")
        try:
            files.delete_session(account, session)
        except OSError as error:
            faults[name] = str(error)
    return faults
