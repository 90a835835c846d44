"""Deletes what is left of deleted sessions: their files and turns; and files of ended generations.

The Redis function that deletes a session notes its name in the same call, so that a process that
dies afterwards leaves no files behind. The name stays noted for `LATE_MS`, since an attempt that
ran meanwhile may still write files. The caller that deletes a session also deletes its turns, in
chunks; this chore deletes those that it did not get to because it died.

The files of a generation without a session stand in a folder of its id, and a worker that writes
the first notes the generation. They are deleted once its record has expired; those of an item of a
batch, once the batch is deleted.
"""

import asyncio
from typing import Final

from shared.media.files import MediaFiles
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.settings import RedisSettings
from shared.telemetry import logs
from shared.wire.batch import ItemRef
from worker.partition_guard import PartitionGuard

# Longer than any attempt of a deleted session continues.
LATE_MS: Final = 60_000
_SESSIONS_AT_ONCE: Final = 500
# Between two looks at a record that has not expired, and two tries to delete files.
_LOOK_AGAIN_MS: Final = 600_000
# The time to live of a key that does not exist.
_GONE: Final = -2


async def forget(redis: Connection, settings: RedisSettings, files: MediaFiles, now_ms: int) -> int:
    """Delete what is left of every noted session and generation; return how many there were.

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
            count += await _expire_files(redis, root, files, now_ms)
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


async def _expire_files(redis: Connection, root: str, files: MediaFiles, now_ms: int) -> int:
    """Delete the files of generations whose record has expired; return how many there were."""
    noted, count = keys.EXPIRING_FILES(root), 0
    while due := await redis.call(
        "ZRANGE", noted, "-inf", now_ms, "BYSCORE", "LIMIT", 0, _SESSIONS_AT_ONCE
    ):
        left_ms = {name: await _record_left_ms(redis, root, name.decode()) for name in due}
        gone = [name for name in due if left_ms[name] is None]
        faults = await asyncio.to_thread(_delete, files, [name.decode() for name in gone])
        for named, fault in faults.items():
            logs.logger().error("files cannot be deleted", name=named, fault=fault)
        done = [name for name in gone if name.decode() not in faults]
        if done:
            await redis.call("ZREM", noted, *done)
        for name in set(due) - set(done):
            later_ms = now_ms + max(left_ms[name] or 0, _LOOK_AGAIN_MS)
            await redis.call("ZADD", noted, "XX", later_ms, name)
        count += len(done)
    return count


async def _record_left_ms(redis: Connection, root: str, name: str) -> int | None:
    """Return how long a generation's files stay at least, 0 while unknown; None if no longer."""
    account, _, id_ = name.partition(":")
    item = ItemRef.of(id_)
    record = keys.GENERATION(root, account, id_)
    if item is not None:
        # Its record is replaced by its packed result, which names the files.
        record = keys.BATCH(root, account, item.batch)
    left: int = await redis.call("PTTL", record)
    return None if left == _GONE else max(0, left)


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
