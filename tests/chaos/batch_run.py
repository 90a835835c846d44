"""A small batch that workers run while one of them dies: stored, looked after, and checked.

Its window is smaller than the batch, so that workers feed the queue, and each chunk has two items,
so that they pack. Checked at the end: each item is answered once, in its place, and charged once.
"""

import asyncio
from typing import Final

import msgspec

from shared.batches.feed import BatchFeeder
from shared.clock import SystemClock
from shared.redis import functions, keys
from shared.redis.client import Redis
from shared.redis.functions import GrantAsk
from shared.settings import RedisSettings, Settings
from shared.wire.batch import ItemResult, unpack_results
from shared.wire.batch_copies import Copy
from shared.wire.message import decode_assistant
from tests.chaos.evidence import Finding, question
from tests.support import stored_batches
from tests.support.redis_invariants import faults
from tests.support.redis_server import RawClient
from tests.worker.front import GRANT, HOLD
from worker.batches.work import BatchWork
from worker.chores import batches as chore

BATCH: Final = "b" * 23
ITEMS: Final = 6
_CHUNK: Final = 2
_UNFINISHED_MAX: Final = 6
# What makes the workers' windows as small as those of `store`.
ENVIRONMENT: Final = {"POLLUX_LIMITS__FREE__UNFINISHED_MAX": str(_UNFINISHED_MAX)}
# Everything is due.
_LATER_MS: Final = 10**13


def _limited(settings: Settings) -> Settings:
    free = msgspec.structs.replace(settings.limits.free, unfinished_max=_UNFINISHED_MAX)
    return msgspec.structs.replace(
        settings, limits=msgspec.structs.replace(settings.limits, free=free)
    )


async def store(redis: Redis, settings: Settings, root: str, account: str) -> None:
    """Store the batch and let its first items enter the queue, as an API process does."""
    await store_items(redis, root, account, ITEMS, _CHUNK)
    await BatchFeeder(redis, _limited(settings), SystemClock()).feed(root, account)


async def store_items(redis: Redis, root: str, account: str, count: int, chunk: int) -> None:
    """Store a batch of `count` items that the account can pay."""
    await functions.grant(redis, root, GrantAsk(account=account, amount=max(GRANT, count * HOLD)))
    items = [
        stored_batches.item(line, question(account, f"item {line}"), hold=HOLD)
        for line in range(1, count + 1)
    ]
    chunks = stored_batches.in_chunks(items, chunk)
    await stored_batches.store(
        redis, root, chunks, account=account, id_=BATCH, copies=_copies(count)
    )


def _copies(count: int) -> list[Copy]:
    """Return two copies of the second item, and one of the last."""
    originals = (1, 1, count - 1)
    return [Copy(f"copy-{at}", count + at, index) for at, index in enumerate(originals, 1)]


async def is_over(redis: Redis, root: str, account: str) -> bool:
    """Return whether the batch has ended and is packed."""
    state, left = await asyncio.gather(
        redis.call("HGET", keys.BATCH(root, account, BATCH), "state"),
        redis.call("EXISTS", keys.BATCH_CHUNKS_TO_PACK(root)),
    )
    return state == b"completed" and not left


async def look_after(redis: Redis, settings: Settings, root: str) -> None:
    """Do what the chore does, as if all leases of work had ended."""
    work = BatchWork(redis, _limited(settings), SystemClock())
    names: list[bytes] = await redis.call("ZRANGE", keys.BATCH_CHUNKS_TO_PACK(root), 0, -1)
    for name in names:
        await redis.call("ZADD", keys.BATCH_CHUNKS_TO_PACK(root), "XX", 0, name)
    await chore.look_after(redis, settings.redis, work, _LATER_MS)
    await work.close()


def findings(
    raw_client: RawClient,
    settings: RedisSettings,
    root: str,
    account: str,
    batch: str = BATCH,
    count: int = ITEMS,
    *,
    spent: int | None = None,
) -> list[Finding]:
    """Return what does not hold of the batch; `spent` is what the account paid, if it had more."""
    found = [Finding("I8", "the keys", fault) for fault in faults(raw_client, settings)]
    chunks = int(raw_client.fields(keys.BATCH(root, account, batch))["chunks"])
    stored = [
        raw_client("GET", keys.BATCH_RESULTS(root, account, batch, chunk))
        for chunk in range(chunks)
    ]
    results = [one for chunk in stored if chunk is not None for one in unpack_results(chunk)]
    lines = [one.line for one in results if one is not None]
    if lines != list(range(1, count + 1)):
        found.append(Finding("I1", account, f"there are results of the lines {lines}"))
    found += [
        Finding("I2", account, f"line {one.line} is {one}")
        for one in results
        if one is not None and not _is_answer(account, one)
    ]
    record = raw_client.fields(keys.BATCH(root, account, batch))
    if int(record.get("copies_completed", 0)) != (len(_copies(count)) if batch == BATCH else 0):
        found.append(Finding("I1", account, f"copies are not counted with their items: {record}"))
    totals = raw_client.fields(keys.ACCOUNT_TOTALS(root, account))
    charged = sum(one.captured for one in results if one is not None)
    paid = charged if spent is None else spent
    if int(totals["settled"]) != paid or paid < charged or int(totals["held"]) != 0 or charged == 0:
        found.append(Finding("I3", account, f"{totals}, but the results cost {charged}"))
    return found


def _is_answer(account: str, result: ItemResult) -> bool:
    if result.state != "completed" or not result.answer:
        return False
    asked = question(account, f"item {result.line}")
    return decode_assistant(result.answer).content.startswith(f"[{asked}]")
