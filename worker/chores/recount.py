"""Recounts the bytes that accounts store: never counted accounts, and those due again.

The Redis functions that store and delete keep the count, and note an account here when its count is
unknown, a day old, or about to refuse a request. A process of an older version does not keep the
count, so it may be wrong until the recount; the difference is logged.
"""

from typing import Final

from shared.errors import StoreError
from shared.redis import functions, keys
from shared.redis.client import Connection
from shared.redis.functions import RecountAsk
from shared.settings import RedisSettings
from shared.telemetry import logs
from worker.partition_guard import PartitionGuard

_ACCOUNTS_AT_ONCE: Final = 100


async def recount(redis: Connection, settings: RedisSettings) -> int:
    """Recount the accounts that are due, the longest due first; return how many there were."""
    count = 0
    partition_guard = PartitionGuard()
    for partition in range(settings.partitions):
        root = keys.partition_root(settings, partition)
        with partition_guard("recount", partition):
            names = await redis.call("ZRANGE", keys.RECOUNT(root), 0, _ACCOUNTS_AT_ONCE - 1)
            for name in names:
                await _recount(redis, root, name.decode())
            count += len(names)
    return count


async def _recount(redis: Connection, root: str, account: str) -> None:
    try:
        corrected, gone, is_first = await count_stored(redis, root, account)
    except StoreError as error:
        # For example a key of the wrong type; the other accounts go on.
        logs.logger().error("stored bytes cannot be counted", account=account, fault=error.message)
        await redis.call("ZREM", keys.RECOUNT(root), account)
        return
    if (corrected or gone) and not is_first:
        logs.logger().warning(
            "stored bytes were counted wrong",
            account=account,
            corrected_bytes=corrected,
            deleted_bytes=gone,
        )


async def count_stored(redis: Connection, root: str, account: str) -> tuple[int, int, bool]:
    """Count an account's stored bytes, in as many Redis calls as that takes.

    Return by how many bytes the counts of its sessions were wrong, the bytes of sessions that were
    deleted without being subtracted, and whether this was the account's first count.
    """
    corrected = 0
    ask = RecountAsk(account=account)
    while True:
        done = await functions.recount(redis, root, ask)
        corrected += done.corrected_bytes
        if done.next is None:
            return corrected, done.gone_bytes, done.is_first
        ask = done.next
