"""Deletes what is left of deleted sessions: their files and turns.

The Redis function that deletes a session notes its name in the same call, so that a process that
dies afterwards leaves no files behind. The name stays noted for `LATE_MS`, since an attempt that
ran meanwhile may still write files. The caller that deletes a session also deletes its turns, in
chunks; this chore deletes those that it did not get to because it died.
"""

import asyncio
from typing import Final

from shared.media.files import MediaFiles
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.telemetry import logs
from worker.partition_guard import PartitionGuard

# Longer than any attempt of a deleted session continues.
LATE_MS: Final = 60_000
_SESSIONS_AT_ONCE: Final = 500


async def forget(redis: Connection, settings: RedisSettings, files: MediaFiles, now_ms: int) -> int:
    """Delete what is left of every noted session; return how many there were.

    `now_ms` is Redis' time, in which the names were noted. Names are read in pages.
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
            # The session stays noted, so the next run tries again; the others go on.
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
    """Delete the files of sessions; return the errors by session name."""
    faults = {}
    for name in names:
        account, _, session = name.partition(":")
        try:
            files.delete_session(account, session)
        except OSError as error:
            faults[name] = str(error)
    return faults
